"""Is it alive, is it ready, how does it fare."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from graftwork.api import openapi, schemas
from graftwork.api.answers import json_answer
from graftwork.api.deps import serving_of
from graftwork.errors import ServiceUnavailable

router = APIRouter(tags=["health"])


@router.get("/healthz", response_model=schemas.Alive, responses=openapi.problems())
async def alive() -> Response:
    """The process answers. Says nothing of models: see `/readyz`."""
    return json_answer({"status": "ok"})


@router.get("/readyz", response_model=schemas.Ready, responses=openapi.problems(503))
async def ready(request: Request) -> Response:
    """The engine runs and what was to be loaded beforehand is loaded; says why not otherwise."""
    serving = serving_of(request)
    takes, why_not = serving.engine.ready()
    if takes and serving.preload.done:
        return json_answer({"status": "ready"})
    raise ServiceUnavailable(serving.preload.state if takes else why_not, remedy="Ask again in a moment.")


@router.get("/metrics", response_class=PlainTextResponse, responses=openapi.problems())
async def metrics(request: Request) -> Response:
    """Metrics in Prometheus' text format."""
    return Response(generate_latest(serving_of(request).metrics), media_type=CONTENT_TYPE_LATEST)
