"""What the engine's threads finish, brought to the event loop: one wake-up for all that finish together."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")


class Completions:
    """Lets coroutines of one event loop wait for futures of other threads.

    Waking the loop costs a system call and a change of threads; a batch that answers thirty requests does it once.
    """

    def __init__(self) -> None:
        self._finished: deque[tuple[Future[Any], asyncio.Future[Any]]] = deque()
        self._woken = False

    def waiter(self, future: Future[Result]) -> asyncio.Future[Result]:
        """A future of the running loop that ends as `future` does."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[Result] = loop.create_future()

        def finished(_: Future[Result]) -> None:
            self._finished.append((future, waiting))
            if not self._woken:
                self._woken = True
                loop.call_soon_threadsafe(self._deliver)

        future.add_done_callback(finished)
        return waiting

    def _deliver(self) -> None:
        # Before the queue is emptied: what is added from here on is taken below, or wakes the loop again.
        self._woken = False
        while self._finished:
            future, waiting = self._finished.popleft()
            if waiting.done():
                continue
            if future.cancelled():
                waiting.cancel()
            elif (error := future.exception()) is not None:
                waiting.set_exception(error)
            else:
                waiting.set_result(future.result())
