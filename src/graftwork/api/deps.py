"""What routes stand on: who asks, and the services that answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request
from prometheus_client import CollectorRegistry

from graftwork.api.completions import Completions
from graftwork.api.limits import ServerLimits
from graftwork.api.lookups import Lookups
from graftwork.registry.base_rows import BaseModel
from graftwork.registry.scope import Scope
from graftwork.serving.request import Ask

if TYPE_CHECKING:
    from graftwork.registry.versions import AdapterVersion
    from graftwork.serving.engine import Engine
    from graftwork.serving.request import Classified, Embedded

Admitted = TypeVar("Admitted")

LOCAL = "local"
_SHORT = 4_096  # characters that are tokenised on the event loop: about a millisecond
_ADMISSIONS = 2  # threads that tokenise what is longer


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks.

    Attributes:
        scope: what they can see of the registry; every catalog query takes it.
        tenant: whose queue their requests wait in; None for the owner of the adapter asked for.
    """

    scope: Scope
    tenant: str | None = None


_EVERYBODY = Identity(Scope.everything())


def identity_of(_headers: Iterable[tuple[bytes, bytes]]) -> Identity:
    """The identity of a request: everybody is the local user. The one place where keys will be looked at."""
    return _EVERYBODY


async def identify(request: Request) -> Identity:
    """The same for routes."""
    return identity_of(request.scope["headers"])


Identified = Annotated[Identity, Depends(identify)]


@dataclass(slots=True)
class Preload:
    """How far the loading of base models before the first request has come."""

    done: bool = True
    state: str = ""


@dataclass(frozen=True, slots=True)
class Serving:
    """The live parts behind one application."""

    engine: Engine
    lookups: Lookups
    limits: ServerLimits
    metrics: CollectorRegistry
    completions: Completions = field(default_factory=Completions)
    admissions: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_ADMISSIONS))
    preload: Preload = field(default_factory=Preload)

    async def classify(self, identity: Identity, version: AdapterVersion, texts: Sequence[str]) -> Future[Classified]:
        """Hand texts to the engine, for the version that the reference meant at admission."""
        tenant = identity.tenant or version.tenant
        admit = partial(self.engine.classify, tenant, version.base, version.digest, texts, deadline=self._deadline())
        return await self._admitted(admit, texts)

    async def classify_each(
        self, identity: Identity, versions: Sequence[AdapterVersion], texts: Sequence[str]
    ) -> list[Future[Classified]]:
        """The same for several versions at once; what is refused is a future that has failed."""
        asks = [Ask(identity.tenant or version.tenant, version.base, version.digest) for version in versions]
        return await self._admitted(partial(self.engine.classify_each, asks, texts, deadline=self._deadline()), texts)

    async def embed(
        self, identity: Identity, model: AdapterVersion | BaseModel, texts: Sequence[str]
    ) -> Future[Embedded]:
        """Hand texts to the engine, for vectors."""
        if isinstance(model, BaseModel):
            tenant, base, adapter = identity.tenant or LOCAL, model.fingerprint, None
        else:
            tenant, base, adapter = identity.tenant or model.tenant, model.base, model.digest
        admit = partial(self.engine.embed, tenant, base, texts, adapter=adapter, deadline=self._deadline())
        return await self._admitted(admit, texts)

    async def _admitted(self, admit: Callable[[], Admitted], texts: Sequence[str]) -> Admitted:
        # The engine tokenises in its caller's thread: of a short text that takes less than handing it to another
        # thread, of many texts so long that the event loop must not wait for it.
        # Media are decoded there, which takes milliseconds.
        if sum(map(len, texts)) <= _SHORT and type(texts[0]) is str:
            return admit()
        return await to_thread.run_sync(admit, limiter=self.admissions)

    def _deadline(self) -> float:
        return time.monotonic() + self.limits.request_seconds


def serving_of(request: Request) -> Serving:
    """The live parts behind the application that got this request."""
    serving: Serving = request.app.state.serving
    return serving
