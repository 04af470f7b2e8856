"""Who stays in memory and for how long: adapters that nobody asks for leave, pinned ones never do."""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import Future

from graftwork.serving.adapters import AdapterCache, LoadedAdapter
from graftwork.serving.bases import Base, Bases
from graftwork.serving.delta import Delta
from graftwork.serving.keys import AdapterKey
from graftwork.serving.loading import LoaderPool

_LOOKS = 100  # at idle adapters, while one becomes idle
_MOST_SECONDS = 60.0  # between two looks


class Tiers:
    """Host memory and the slots of all base models, looked after between batches.

    Args:
        bases: the base models, with their slots.
        adapters: host memory.
        idle_seconds: after which an adapter that nobody asked for leaves both.
        clock: seconds; the one that `bases` and `adapters` go by.
    """

    def __init__(
        self, bases: Bases, adapters: AdapterCache, *, idle_seconds: float, clock: Callable[[], float]
    ) -> None:
        self._bases = bases
        self._adapters = adapters
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._next_look = clock()
        # A thread of its own: it waits for others' loads, and would be one too few for them.
        self._ahead = LoaderPool(1, "graftwork-ahead")
        self._placing: queue.SimpleQueue[tuple[Base, AdapterKey, Delta, Future[None]]] = queue.SimpleQueue()

    def open(self, base: str) -> Future[None]:
        """Load a base model. May be called from any thread."""
        return self._ahead.submit(lambda: self._open(base))

    def pin(self, key: AdapterKey) -> Future[None]:
        """Load an adapter and keep it for good. May be called from any thread."""
        return self._ahead.submit(lambda: self._pin(key))

    def tend(self) -> None:
        """Place what is to be pinned, and let idle adapters go. For the engine's thread alone."""
        while not self._placing.empty():
            base, key, delta, placed = self._placing.get()
            try:
                base.stack.keep(key, delta)
                placed.set_result(None)
            except Exception as error:
                placed.set_exception(error)
        now = self._clock()
        if now < self._next_look:
            return
        self._next_look = now + min(self._idle_seconds / _LOOKS, _MOST_SECONDS)
        for base in self._bases.all():
            base.stack.offload(now - self._idle_seconds)
        self._adapters.offload(now - self._idle_seconds)

    def close(self) -> None:
        """Cancel what is not pinned yet."""
        self._ahead.shutdown()
        while not self._placing.empty():
            self._placing.get()[-1].cancel()

    def _open(self, base: str) -> None:
        self._bases.load(base).result()

    def _pin(self, key: AdapterKey) -> None:
        base = self._bases.load(key.base).result()
        adapter: LoadedAdapter = self._adapters.load(key, base.backbone, base.places).result()
        self._adapters.pin(adapter)
        if adapter.delta is None:
            return
        placed: Future[None] = Future()
        self._placing.put((base, adapter.body, adapter.delta, placed))
        placed.result()
