"""Loads that happen once, however many wait for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class SingleFlight(Generic[Key, Value]):
    """Runs a load per key at a time in a pool. What failed is forgotten with what succeeded: the next call loads anew.

    Example:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> with ThreadPoolExecutor(1) as pool:
        ...     SingleFlight(pool).run("key", lambda: 42).result()
        42
    """

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._lock = threading.RLock()
        self._flying: dict[Key, Future[Value]] = {}

    def run(self, key: Key, load: Callable[[], Value]) -> Future[Value]:
        """Start the load, or join the one that is under way."""
        with self._lock:
            flying = self._flying.get(key)
            if flying is not None:
                return flying
            future = self._flying[key] = self._pool.submit(load)
            # Before any callback of a caller: whoever is told of a failure and asks again starts a new load. The lock
            # is reentrant because a load that is done already calls back here.
            future.add_done_callback(lambda _: self._landed(key))
            return future

    def _landed(self, key: Key) -> None:
        with self._lock:
            self._flying.pop(key, None)
