"""What can be asked: base models and adapters, by their metadata."""

from __future__ import annotations

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from graftwork.api import openapi, schemas
from graftwork.api.answers import json_answer
from graftwork.api.deps import Identified, serving_of
from graftwork.api.lookups import Place
from graftwork.errors import RequestInvalid
from graftwork.registry.base_rows import BaseModel
from graftwork.registry.versions import AdapterVersion

router = APIRouter(tags=["models"])


@router.get("/v1/models", response_model=schemas.ModelPage, responses=openapi.problems(422, 503))
async def list_models(
    request: Request,
    identity: Identified,
    limit: Annotated[int, Query(ge=1, le=1000, description="models in a page")] = 100,
    cursor: Annotated[str | None, Query(max_length=512, description="`next_cursor` of the page before")] = None,
) -> Response:
    """Adapters (the newest version of each) and base models, each kind by id.

    A cursor is only a place in that order: it shows nothing that the asker's scope does not.
    """
    after = None if cursor is None else _place(cursor)
    found = await serving_of(request).lookups.page(identity.scope, after, limit + 1)
    more = len(found) > limit
    entries = [_entry(model) for _, model in found[:limit]]
    next_cursor = _cursor(found[limit - 1][0]) if more else None
    return json_answer({"object": "list", "data": entries, "has_more": more, "next_cursor": next_cursor})


@router.get(
    "/v1/models/{model:path}", response_model=schemas.ModelEntry, responses=openapi.problems(404, 409, 422, 503)
)
async def show_model(request: Request, identity: Identified, model: str) -> Response:
    """One adapter (`tenant/name`, `tenant/name@3`, `tenant/name:production`) or base model (by name or reference)."""
    found = await serving_of(request).lookups.model(model, identity.scope)
    return json_answer(_entry(found))


def _entry(model: AdapterVersion | BaseModel) -> dict[str, Any]:
    return _base(model) if isinstance(model, BaseModel) else _adapter(model)


def _adapter(version: AdapterVersion) -> dict[str, Any]:
    return {
        "id": f"{version.tenant}/{version.name}",
        "object": "model",
        "created": int(version.created_at.timestamp()),
        "owned_by": version.tenant,
        "kind": "adapter",
        "digest": version.digest,
        "base": version.base_reference,
        "size_bytes": version.size_bytes,
        "aliases": version.aliases,
        "version": version.version,
        "strategy": version.strategy,
        "labels": version.labels,
    }


def _base(base: BaseModel) -> dict[str, Any]:
    facts = base.metadata
    return {
        "id": base.reference,
        "object": "model",
        "created": int(base.created_at.timestamp()),
        "owned_by": "base",
        "kind": "base",
        "digest": base.fingerprint,
        "base": base.reference,
        "size_bytes": base.size_bytes,
        "aliases": base.aliases,
        "architecture": facts.architecture,
        "domain": facts.domain,
        "parameters": facts.parameters,
        "width": facts.hidden_size,
        "max_length": facts.max_length,
    }


def _cursor(place: Place) -> str:
    return base64.urlsafe_b64encode(":".join(place).encode()).decode()


def _place(cursor: str) -> Place:
    try:
        kind, colon, name = base64.b64decode(cursor, altchars=b"-_", validate=True).decode().partition(":")
    except ValueError:  # of which errors in base64 and in UTF-8 are kinds
        kind, colon, name = "", "", ""
    if not colon:
        raise RequestInvalid("the cursor is none that this server gave", remedy="Begin without a cursor.")
    return kind, name
