"""The application: routes, errors and middleware over an engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from anyio import to_thread
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.middleware import Middleware
from starlette.types import Receive, Scope, Send

import graftwork
from graftwork.api import openapi, problems
from graftwork.api.deps import Serving
from graftwork.api.direct import Direct
from graftwork.api.instant import Instant
from graftwork.api.limits import ServerLimits
from graftwork.api.lookups import Lookups
from graftwork.api.metrics import EngineCollector, HttpMetrics
from graftwork.api.middleware import RequestContext
from graftwork.api.routes import classify, embeddings, health, models, predict

if TYPE_CHECKING:
    from graftwork.serving.engine import Engine
    from graftwork.wiring import Services

_DESCRIPTION = """Classifiers and embeddings of many tenants, answered from shared base models.

Every error is an `application/problem+json` (RFC 9457) with a stable `code` and a `remedy`. Every answer carries
`X-Request-ID`: the one that was sent, if it was sane, else a new one."""


def create_app(services: Services, engine: Engine, limits: ServerLimits | None = None) -> FastAPI:
    """Build the HTTP application over live services.

    The engine is started when the application starts and drained when it stops. Each application has metrics of its
    own, so that several can live in one process.
    """
    limits = limits or ServerLimits()
    registry = CollectorRegistry()
    registry.register(EngineCollector(engine))
    metrics = HttpMetrics()
    registry.register(metrics)
    app = _Application(
        title="Graftwork",
        version=graftwork.__version__,
        description=_DESCRIPTION,
        middleware=[Middleware(RequestContext, metrics=metrics)],
        lifespan=_lifespan,
        redirect_slashes=False,
    )
    lookups = Lookups(services, limits.lookup_threads, limits.lookup_seconds, limits.lookup_grace_seconds)
    serving = app.state.serving = Serving(engine, lookups, limits, registry)
    for module in (classify, predict, embeddings, models, health):
        app.include_router(module.router)
    problems.install(app)
    openapi.install(app)
    app.direct = Direct(super(_Application, app).__call__, serving, metrics)
    app.state.instant = Instant(serving, metrics)
    return app


class _Application(FastAPI):
    """FastAPI behind the short way for classes of texts."""

    direct: Direct

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self.direct(scope, receive, send)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    serving: Serving = app.state.serving
    serving.engine.start()
    try:
        yield
    finally:
        await to_thread.run_sync(partial(serving.engine.close, drain=True, timeout=serving.limits.drain_seconds))
        serving.lookups.close()
