"""Graftwork's own classification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from graftwork.api import openapi, schemas
from graftwork.api.answers import json_bytes
from graftwork.api.body import read_body
from graftwork.api.classifying import Call
from graftwork.api.classifying import classify as classified
from graftwork.api.deps import Identified, serving_of
from graftwork.api.uploads import MEDIA_TYPE, read_upload
from graftwork.api.wanted import Wanted

router = APIRouter(tags=["classify"])

_Either = schemas.ClassifyRequest | schemas.ClassifyEachRequest


@router.post(
    "/v1/classify",
    response_model=schemas.ClassifyAnswer | schemas.ClassifyEachAnswer,
    responses=openapi.INFERENCE,
    openapi_extra=openapi.body(schemas.ClassifyRequest, schemas.ClassifyEachRequest, form=schemas.ClassifyForm),
)
async def classify(request: Request, identity: Identified) -> Response:
    """Classify texts with a published adapter (`model`), or with several at once (`models`).

    A model of images takes `{"image": base64}` in the place of a text, one of speech `{"audio": base64}`; or a form
    (multipart/form-data) has the fields `model`, `top_k` and one or more files named `image` or `audio`.

    Each reference is resolved once, here; the answer belongs wholly to the version that it named at that moment. Of
    several models, each answers or fails by itself: `answers` holds one entry a model, in the order of `models`, with
    an `error` where it failed. Only when all of them failed, the first one's problem is the answer to the request.

    An adapter of several tasks answers all of them from one pass: each result holds `tasks`, the labels by task,
    instead of `labels`; with `task` in the request it holds the `labels` of that task alone.
    """
    serving = serving_of(request)
    body: _Either
    if request.headers.get("content-type", "").lower().startswith(MEDIA_TYPE):
        body = await read_upload(request, serving.limits)
    else:
        body = await read_body(request, schemas.ClassifyRequest, serving.limits, _shape)
    if isinstance(body, schemas.ClassifyEachRequest):
        wanted = Wanted(tuple(body.models), True, body.inputs, body.top_k)
    else:
        wanted = Wanted((body.model,), False, body.inputs, body.top_k, task=body.task)
    return json_bytes(await classified(serving, Call.of(request, identity), wanted))


def _shape(members: Mapping[str, Any]) -> type[_Either]:
    several = "models" in members and "model" not in members
    return schemas.ClassifyEachRequest if several else schemas.ClassifyRequest
