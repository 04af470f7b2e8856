"""Embeddings as OpenAI's clients ask for them."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from starlette.responses import Response

from graftwork.api import openapi, schemas
from graftwork.api.answers import answered, json_answer
from graftwork.api.body import read_body
from graftwork.api.deps import Identified, serving_of
from graftwork.api.lookups import digest_of
from graftwork.errors import Problem, RequestInvalid

router = APIRouter(tags=["embeddings"])


@router.post(
    "/v1/embeddings",
    response_model=schemas.EmbeddingsAnswer,
    responses=openapi.INFERENCE,
    openapi_extra=openapi.body(schemas.EmbeddingsRequest),
)
async def embeddings(request: Request, identity: Identified) -> Response:
    """Turn texts into vectors, with a base model or with an adapter on it."""
    serving = serving_of(request)
    body = await read_body(request, schemas.EmbeddingsRequest, serving.limits)
    model = await serving.lookups.model(body.model, identity.scope)
    if body.dimensions is not None:
        _check_width(body.dimensions, await serving.lookups.width(model))
    answer = await answered(request.receive, serving.completions, await serving.embed(identity, model, body.input))
    encode = _as_base64 if body.encoding_format == "base64" else _as_numbers
    data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(encode(answer.vectors))]
    usage = {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens}
    return json_answer(
        {"object": "list", "data": data, "model": model.reference, "digest": digest_of(model), "usage": usage}
    )


def _check_width(asked: int, width: int) -> None:
    if asked != width:
        raise RequestInvalid(
            f"the model's vectors have {width} numbers, not {asked}",
            problems=[Problem("#/dimensions", f"should be {width}, or left out")],
            remedy="Leave 'dimensions' out: vectors are not shortened.",
        )


def _as_numbers(vectors: NDArray[np.float32]) -> list[Any]:
    numbers: list[Any] = vectors.tolist()
    return numbers


def _as_base64(vectors: NDArray[np.float32]) -> list[str]:
    return [base64.b64encode(row.tobytes()).decode() for row in vectors.astype("<f4", copy=False)]
