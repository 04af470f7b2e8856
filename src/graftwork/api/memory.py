"""What was looked up before, for exactly as long as it is still true."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import sqlalchemy as sa

from graftwork.registry.database import Database
from graftwork.registry.tables import registry_state

Found = TypeVar("Found")

_WRITES = sa.select(registry_state.c.writes)


class Memory:
    """Results of catalog lookups, forgotten as soon as anybody writes to the registry.

    Every writer, in whatever process, counts itself in `registry_state.writes` in its own transaction. That number is
    read before each answer: as long as it stands, nothing that was found can have changed. What is not found is not
    kept. Thread-safe; calls block, as the database does.

    Args:
        database: the registry's database.
        size: results that are kept; the one not asked for longest goes first.
    """

    def __init__(self, database: Database, size: int = 10_000) -> None:
        self._database = database
        self._size = size
        self._writes: int | None = None
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, look: Callable[[], Found]) -> Found:
        """The result kept under `key`, or that of `look()`, which is called after the number was read."""
        with self._database.read() as connection:
            writes = connection.scalar(_WRITES)
        with self._lock:
            if writes != self._writes:
                self._kept.clear()
                self._writes = writes
            elif key in self._kept:
                self._kept.move_to_end(key)
                kept: Found = self._kept[key]
                return kept
        found = look()
        with self._lock:
            if writes == self._writes:
                self._kept[key] = found
                if len(self._kept) > self._size:
                    self._kept.popitem(last=False)
        return found
