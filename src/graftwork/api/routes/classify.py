"""Graftwork's own classification."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request
from starlette.responses import Response

from graftwork.api import openapi, schemas
from graftwork.api.answers import answered, json_answer
from graftwork.api.body import read_body
from graftwork.api.deps import Identified, serving_of
from graftwork.api.ranking import ranked

router = APIRouter(tags=["classify"])


@router.post(
    "/v1/classify",
    response_model=schemas.ClassifyAnswer,
    responses=openapi.INFERENCE,
    openapi_extra=openapi.body(schemas.ClassifyRequest),
)
async def classify(request: Request, identity: Identified) -> Response:
    """Classify texts with a published adapter.

    The reference is resolved once, here; the answer belongs wholly to the version that it named at that moment.
    """
    serving = serving_of(request)
    body = await read_body(request, schemas.ClassifyRequest, serving.limits)
    version = await serving.lookups.adapter(body.model, identity.scope)
    answer = await answered(request, await serving.classify(identity, version, body.inputs))
    rows = ranked(answer.labels, answer.probabilities, body.top_k)
    return json_answer(
        {
            "model": version.reference,
            "digest": answer.digest,
            "base": version.base_reference,
            "results": [{"labels": row} for row in rows],
            "tokens": answer.tokens,
            "latency_ms": round((time.perf_counter() - request.scope["state"]["started"]) * 1000, 3),
        }
    )
