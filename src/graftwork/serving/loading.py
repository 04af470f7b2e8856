"""Loads that happen once, however many wait for them, in threads that a store which hangs cannot use up."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from graftwork.errors import StorageTimeout

Key = TypeVar("Key")
Value = TypeVar("Value")

MOST_HUNG = 32
"""Loads that may hang at once and still have their threads replaced."""


def _nothing() -> None:
    pass


@dataclass(eq=False, slots=True)
class _Job:
    load: Callable[[], Any]
    landed: Callable[[], None]
    deadline: float
    future: Future[Any] = field(default_factory=Future)
    running: bool = False
    over: bool = False  # it has returned, or nobody will ever run it
    given_up: bool = False  # nobody waits for it any more
    replaced: bool = False  # another thread may take the place of the one that runs it


class LoaderPool:
    """A few threads that load. A load that takes too long is given up, and its thread is replaced.

    A thread cannot be interrupted: it stays with its load until that returns, which may be never, and then ends. So
    that those who wait behind it are served, another takes its place, as long as no more than `MOST_HUNG` hang. The
    threads never keep a process from ending.

    Args:
        threads: loads that run at once, those that hang not counted.
        name: of the threads.
        patience: seconds after which a load is given up, the time it waits for a thread included.
        begin: called first in each thread.

    Example:
        >>> pool = LoaderPool(1, "example")
        >>> pool.submit(lambda: 42).result()
        42
        >>> pool.shutdown()
    """

    def __init__(
        self, threads: int, name: str, *, patience: float = math.inf, begin: Callable[[], None] = _nothing
    ) -> None:
        self._name = name
        self._begin = begin
        self._spare = threads  # threads that may yet be started
        self._patience = patience
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._late = threading.Condition(self._lock)
        self._waiting: deque[_Job] = deque()
        self._watched: deque[_Job] = deque()  # the first is due first: all have the same patience
        self._idle = 0
        self._hung = 0
        self._closed = False
        if patience < math.inf:
            threading.Thread(target=self._watch, name=f"{name}-watch", daemon=True).start()

    def submit(self, load: Callable[[], Value], landed: Callable[[], None] = _nothing) -> Future[Value]:
        """Run a load in one of the threads.

        Args:
            load: what to run.
            landed: called once, before the future ends, when `load` has returned or will never be run. A load that
                is given up while it runs lands after its future has ended.

        Raises:
            RuntimeError: the pool is shut down.

        The future may end with `StorageTimeout` or what `load` raises.
        """
        job = _Job(load, landed, time.monotonic() + self._patience)
        with self._lock:
            if self._closed:
                raise RuntimeError("the loaders have stopped")
            self._waiting.append(job)
            while self._watched and self._watched[0].over:
                self._watched.popleft()
            self._watched.append(job)
            if len(self._waiting) <= self._idle:
                self._work.notify()
            elif self._spare:
                self._start_thread()
        return job.future

    def shutdown(self) -> None:
        """Take no more loads, cancel those that wait for a thread, let go of the threads."""
        with self._lock:
            self._closed = True
            left = list(self._waiting)
            self._waiting.clear()
            self._work.notify_all()
            self._late.notify_all()
        for job in left:
            job.landed()
            job.future.cancel()

    def _start_thread(self) -> None:
        self._spare -= 1
        threading.Thread(target=self._serve, name=self._name, daemon=True).start()

    def _serve(self) -> None:
        self._begin()
        while (job := self._next()) is not None:
            result, failure = None, None
            try:
                result = job.load()
            except BaseException as error:
                failure = error
            job.landed()
            with self._lock:
                job.over = True
                self._hung -= job.given_up
            if job.given_up:
                if job.replaced:
                    return
            elif failure is not None:
                job.future.set_exception(failure)
            else:
                job.future.set_result(result)

    def _next(self) -> _Job | None:
        with self._lock:
            while not self._waiting:
                if self._closed:
                    return None
                self._idle += 1
                self._work.wait()
                self._idle -= 1
            job = self._waiting.popleft()
            job.running = True
            return job

    def _watch(self) -> None:
        while (job := self._overdue()) is not None:
            if not job.running:
                job.landed()
            job.future.set_exception(
                StorageTimeout(
                    f"the store did not give what was asked for within {self._patience:g} seconds",
                    remedy="Send the request again; check that the store can be reached.",
                    retry_after=min(self._patience, 60.0),
                )
            )

    def _overdue(self) -> _Job | None:
        """The next load to give up, its thread replaced; None when the pool is shut down."""
        with self._lock:
            while not self._closed:
                while self._watched and self._watched[0].over:
                    self._watched.popleft()
                due = self._watched[0].deadline if self._watched else math.inf
                # Whatever is submitted meanwhile is due later than this.
                left = min(due - time.monotonic(), self._patience)
                if left > 0:
                    self._late.wait(left)
                    continue
                job = self._watched.popleft()
                job.given_up = True
                if not job.running:
                    job.over = True
                    self._waiting.remove(job)
                    return job
                self._hung += 1
                if self._hung <= MOST_HUNG:
                    job.replaced = True
                    self._spare += 1
                    if self._waiting:
                        self._start_thread()
                return job
            return None


class SingleFlight(Generic[Key, Value]):
    """Runs a load per key at a time in a pool. What failed is forgotten with what succeeded: the next call loads anew.

    A load that hangs stays the only one of its key: calls that come while it does end as it did, at once, and none
    of them takes a thread.

    Example:
        >>> pool = LoaderPool(1, "example")
        >>> SingleFlight(pool).run("key", lambda: 42).result()
        42
        >>> pool.shutdown()
    """

    def __init__(self, pool: LoaderPool) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._flying: dict[Key, Future[Value]] = {}

    def run(self, key: Key, load: Callable[[], Value]) -> Future[Value]:
        """Start the load, or join the one that is under way."""
        with self._lock:
            flying = self._flying.get(key)
            if flying is None:
                # Landing waits for this lock, and comes before any callback of a caller: whoever is told of a failure
                # and asks again starts a new load.
                flying = self._flying[key] = self._pool.submit(load, lambda: self._landed(key))
            return flying

    def _landed(self, key: Key) -> None:
        with self._lock:
            del self._flying[key]
