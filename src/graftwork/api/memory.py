"""What was looked up before, for as long as it is still true, or was a moment ago."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from graftwork.errors import StorageError
from graftwork.registry.database import Database
from graftwork.registry.tables import registry_state

Found = TypeVar("Found")

logger = logging.getLogger("graftwork.api")

_PATIENCE_SECONDS = 1.0  # for a database that is locked
_PAUSE_SECONDS = 1.0  # between two questions to a database that does not answer
_WRITES = sa.select(registry_state.c.writes)


class Memory:
    """Results of catalog lookups, forgotten as soon as anybody writes to the registry.

    Every writer, in whatever process, counts itself in `registry_state.writes` in its own transaction. As long as that
    number stands, nothing that was found can have changed. `get` and `refresh` read it and block, as the database does;
    `known` trusts a reading for a while. What is not found is not kept. Thread-safe.

    While the database does not answer, what was found last is taken for true for a time of grace, so that those who
    are served go on being served; it is asked again once a second.

    Args:
        database: the registry's database.
        size: results that are kept; the one not asked for longest goes first.
        trusted: seconds for which `known` trusts a reading of the number, from before it was read.
        grace: seconds since the database last answered for which `get` gives what was found before all the same.
        clock: seconds.
    """

    def __init__(
        self,
        database: Database,
        size: int = 10_000,
        *,
        trusted: float = 0.0,
        grace: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._size = size
        self._trusted = trusted
        self._grace = grace
        self._outage: StorageError | None = None
        self._ask_again = float("-inf")
        self._clock = clock
        self._read = float("-inf")
        self._writes: int | None = None
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def known(self, keys: Sequence[Hashable]) -> tuple[list[Any | None], bool]:
        """The result kept under each key, if the number was read a moment ago; never blocks.

        And whether half of the time for which that reading is trusted has passed.
        """
        kept = self._kept
        with self._lock:
            age = self._clock() - self._read
            if age > self._trusted:
                return [None] * len(keys), True
            found = [kept.get(key) for key in keys]
            for key, result in zip(keys, found, strict=True):
                if result is not None:
                    kept.move_to_end(key)
            return found, age > self._trusted / 2

    def refresh(self) -> int | None:
        """Read the number, and forget everything if it is another; returns it, or the last one in an outage.

        Raises:
            StorageError: the database does not answer, and the grace is over.
        """
        start = self._clock()
        if self._outage is not None and start < self._ask_again:
            return self._last_read(self._outage)
        self._ask_again = start + _PAUSE_SECONDS
        try:
            with self._database.read(patience=_PATIENCE_SECONDS) as connection:
                writes: int | None = connection.scalar(_WRITES)
        except StorageError as error:
            if self._outage is None:
                logger.warning("the registry does not answer; names are answered as last seen: %s", error.message)
            self._outage = error
            return self._last_read(error)
        self._outage = None
        with self._lock:
            # A reading that was slow, and overtaken by a later one, says nothing about now.
            if start >= self._read:
                if writes != self._writes:
                    self._kept.clear()
                    self._writes = writes
                self._read = start
        return writes

    def _last_read(self, outage: StorageError) -> int | None:
        with self._lock:
            if self._clock() - self._read <= self._grace:
                return self._writes
        raise outage

    def get(self, key: Hashable, look: Callable[[], Found]) -> Found:
        """The result kept under `key`, or that of `look()`, which is called after the number was read.

        Raises:
            StorageError: the database does not answer, and `key` is not kept or the grace is over.
        """
        writes = self.refresh()
        with self._lock:
            if writes == self._writes and key in self._kept:
                self._kept.move_to_end(key)
                kept: Found = self._kept[key]
                return kept
        outage = self._outage
        if outage is not None:
            raise outage  # at once: others wait for this thread
        found = look()
        with self._lock:
            if writes == self._writes:
                self._kept[key] = found
                if len(self._kept) > self._size:
                    self._kept.popitem(last=False)
        return found
