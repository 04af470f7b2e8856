"""Classification as Hugging Face's clients ask for it.

InferenceClient(model="http://127.0.0.1:8080/predict/acme/news").text_classification("Late goal wins the cup")
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from graftwork.api import openapi, schemas
from graftwork.api.answers import json_bytes
from graftwork.api.body import read_body
from graftwork.api.classifying import Call
from graftwork.api.classifying import predict as predicted
from graftwork.api.deps import Identified, serving_of
from graftwork.api.wanted import Wanted

router = APIRouter(tags=["classify"])


@router.post(
    "/predict/{tenant}/{name}",
    response_model=list[list[schemas.LabelScore]],
    responses=openapi.INFERENCE,
    openapi_extra=openapi.body(schemas.PredictRequest),
)
async def predict(
    request: Request,
    identity: Identified,
    tenant: str,
    name: str,
    task: Annotated[str | None, Query(max_length=64, description="which of the adapter's tasks, if several")] = None,
) -> Response:
    """Classify texts; `name` may end in `@version` or `:alias`. An adapter of several tasks has to be told which.

    One list of labels with scores a text. The headers `X-Graftwork-Model` and `X-Graftwork-Digest` tell who answered.
    """
    serving = serving_of(request)
    body = await read_body(request, schemas.PredictRequest, serving.limits)
    parameters = body.parameters or schemas.PredictParameters()
    wanted = Wanted((f"{tenant}/{name}",), False, body.inputs, parameters.top_k, parameters.function_to_apply, task)
    return json_bytes(await predicted(serving, Call.of(request, identity), wanted))
