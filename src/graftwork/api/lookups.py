"""Names to things, once per request.

The catalog is a database and its calls block, so they run in a few threads of their own. What was found is kept until
anything is written to the registry (see `memory`). Whether anything was is asked once for all requests of the same few
milliseconds: a name that was moved is followed by every request that comes more than `trusted` seconds later.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

from anyio import CapacityLimiter, to_thread

from graftwork.api.memory import Memory
from graftwork.errors import Conflict, NotFound
from graftwork.registry.base_rows import BaseModel
from graftwork.registry.reference import Reference, resolve_nearest
from graftwork.registry.scope import Scope
from graftwork.registry.versions import AdapterVersion

if TYPE_CHECKING:
    from graftwork.wiring import Services

Found = TypeVar("Found")
Place = tuple[str, str]  # of a model in a listing: its kind and id


class Lookups:
    """The registry, as routes see it.

    Args:
        services: the installation's services.
        threads: threads that may read the database at once.
        trusted: seconds for which a name means what it meant, before the registry is asked again.
        grace: seconds for which names are answered as last seen when the database does not answer.
    """

    def __init__(self, services: Services, threads: int, trusted: float = 0.0, grace: float = 300.0) -> None:
        self._bases = services.bases
        self._catalog = services.catalog
        self._trusted = trusted
        self._memory = Memory(services.database, trusted=trusted, grace=grace)
        self._threads = CapacityLimiter(threads)
        self._reader = ThreadPoolExecutor(1, "graftwork-names")
        self._asking: Future[int | None] | None = None

    def known_answering(self, asked: Sequence[tuple[str, Scope]]) -> list[AdapterVersion | None]:
        """What `answering` would give for each, if that is known and trusted; None: the registry has to be asked."""
        return self._known([("answering", reference, scope) for reference, scope in asked])

    async def answering(self, reference: str, scope: Scope) -> AdapterVersion:
        """The version that answers for a reference now: the one it means, or that of the nearest name above it.

        Raises:
            ReferenceMalformed: it is no reference.
            NotFound: no such adapter in scope, nor any above it.
        """
        key = ("answering", reference, scope)
        known: AdapterVersion | None = self._known([key])[0]
        if known is not None:
            return known
        parsed = Reference.parse(reference)
        return await self._kept(key, lambda: resolve_nearest(lambda each: self._catalog.resolve(each, scope), parsed))

    async def adapter(self, reference: str, scope: Scope) -> AdapterVersion:
        """The version that a reference means now.

        Raises:
            ReferenceMalformed: it is no reference.
            NotFound: no such adapter in scope.
        """
        key = ("adapter", reference, scope)
        known: AdapterVersion | None = self._known([key])[0]
        if known is not None:
            return known
        parsed = Reference.parse(reference)
        return await self._kept(key, lambda: self._catalog.resolve(parsed, scope))

    async def model(self, name: str, scope: Scope) -> AdapterVersion | BaseModel:
        """The base model or adapter that a name means now.

        `family/version` of a base looks like `tenant/name` of an adapter. A name that means both is refused rather
        than guessed.

        Raises:
            ReferenceMalformed, NotFound: as `adapter`.
            Conflict: it means a base model and an adapter.
        """
        if "@" in name or ":" in name:
            return await self.adapter(name, scope)
        if name.count("/") != 1:
            return await self._base(name)
        return await self._kept(("either", name, scope), lambda: self._either(name, scope))

    async def width(self, model: AdapterVersion | BaseModel) -> int:
        """Numbers in an embedding of this model."""
        base = model if isinstance(model, BaseModel) else await self._base(model.base)
        return base.metadata.hidden_size

    async def page(
        self, scope: Scope, after: Place | None, limit: int
    ) -> list[tuple[Place, AdapterVersion | BaseModel]]:
        """Base models and the newest version of each adapter in scope, each with its place; metadata only.

        Args:
            scope: whose adapters are listed.
            after: begin behind this place, whether there is anything at it or not; at the beginning if None.
            limit: how many at most.
        """
        ordered = await self._kept(("everything", scope), lambda: self._everything(scope))
        start = 0 if after is None else bisect_right(ordered, after, key=itemgetter(0))
        return ordered[start : start + limit]

    def _everything(self, scope: Scope) -> list[tuple[Place, AdapterVersion | BaseModel]]:
        bases = [(("base", base.reference), base) for base in self._bases.list()]
        adapters = [(("adapter", f"{v.tenant}/{v.name}"), v) for v in self._catalog.list(scope)]
        return sorted([*bases, *adapters], key=itemgetter(0))

    def _either(self, name: str, scope: Scope) -> AdapterVersion | BaseModel:
        reference = Reference.parse(name)
        try:
            base = self._bases.resolve(name)
        except NotFound:
            return self._catalog.resolve(reference, scope)
        try:
            self._catalog.resolve(reference, scope)
        except NotFound:
            return base
        raise Conflict(
            f"{name!r} means a base model and an adapter",
            remedy=f"Write {base.reference!r} for the base model, or the adapter with its @version.",
        )

    async def _base(self, reference: str) -> BaseModel:
        return await self._kept(("base", reference), lambda: self._bases.resolve(reference))

    async def _kept(self, key: Hashable, look: Callable[[], Found]) -> Found:
        known: Found | None = self._known([key])[0]
        if known is None and self._trusted:
            await asyncio.shield(asyncio.wrap_future(self._ask()))
            known = self._known([key])[0]
        if known is not None:
            return known
        return await to_thread.run_sync(self._memory.get, key, look, limiter=self._threads)

    def _known(self, keys: Sequence[Hashable]) -> list[Any | None]:
        """What is known and trusted; while it is asked for, it is asked ahead of time whether it still holds."""
        known, ageing = self._memory.known(keys)
        if ageing and any(found is not None for found in known):
            self._ask()
        return known

    def _ask(self) -> Future[int | None]:
        """Ask the registry whether anything was written: once for all who want to know now.

        By a thread of its own, past the event loop: when that has much to do, each of its rounds takes as long as a
        reading is trusted. An error is told to those who wait; when nobody does, the next request meets it itself.
        """
        if self._asking is None or self._asking.done():
            self._asking = self._reader.submit(self._memory.refresh)
        return self._asking

    def close(self) -> None:
        """End the thread that reads; nothing is to be looked up any more."""
        self._reader.shutdown()


def digest_of(model: AdapterVersion | BaseModel) -> str:
    """What identifies a model's content."""
    return model.fingerprint if isinstance(model, BaseModel) else model.digest
