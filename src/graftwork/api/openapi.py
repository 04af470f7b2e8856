"""What FastAPI cannot see by itself: bodies that routes read themselves, and problems."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from graftwork.api import schemas
from graftwork.api.problems import MEDIA_TYPE

_REF = "#/components/schemas/"
_BODIES: tuple[type[BaseModel], ...] = (
    schemas.ClassifyRequest,
    schemas.ClassifyEachRequest,
    schemas.ClassifyForm,
    schemas.PredictRequest,
    schemas.EmbeddingsRequest,
    schemas.ProblemDetails,
)
_DESCRIPTIONS = {
    404: "No such model, or not yours",
    408: "The body did not arrive in time",
    409: "The name means two things, or adapter and base do not belong together",
    413: "Body, text or list over the limit",
    415: "Not said to be plain JSON",
    422: "Not of the documented shape; every mistake is listed",
    429: "Too many requests of this tenant are waiting; see Retry-After",
    500: "The server failed; the request id finds it in the log",
    503: "Not ready, stopping, or the stored model is damaged",
    504: "Dropped because its time was over",
    507: "No space is left",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can answer with these problems."""
    content = {MEDIA_TYPE: {"schema": {"$ref": _REF + "ProblemDetails"}}}
    return {status: {"description": _DESCRIPTIONS[status], "content": content} for status in (*statuses, 500)}


# What every route that reads a body and asks the engine can answer.
INFERENCE = problems(404, 408, 409, 413, 415, 422, 429, 503, 504, 507)


def body(*shapes: type[BaseModel], form: type[BaseModel] | None = None) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads a body of this shape, or of one of these, or this form."""
    found = [{"$ref": _REF + shape.__name__} for shape in shapes]
    content: dict[str, Any] = {"application/json": {"schema": found[0] if len(found) == 1 else {"oneOf": found}}}
    if form is not None:
        content["multipart/form-data"] = {"schema": {"$ref": _REF + form.__name__}}
    return {"requestBody": {"required": True, "content": content}}


def install(app: FastAPI) -> None:
    """Let the application's OpenAPI name the schemas that `body` and `problems` refer to."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            _, known = models_json_schema([(shape, "validation") for shape in _BODIES], ref_template=_REF + "{model}")
            document["components"]["schemas"].update(known["$defs"])
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]
