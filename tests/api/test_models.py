"""`/v1/models`: what can be asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.api.conftest import Stage
from tests.api.fakes import BASE, CREATED, adapter_version

Check = Callable[[httpx.Response, int, str], dict[str, Any]]


def test_bases_and_adapters_are_listed_with_their_metadata(stage: Stage) -> None:
    page = stage.http.get("/v1/models").json()
    assert (page["object"], page["has_more"], page["next_cursor"]) == ("list", False, None)
    news, mood, base = page["data"]
    assert base == {
        "id": "tiny/bert/v2",
        "object": "model",
        "created": int(CREATED.timestamp()),
        "owned_by": "base",
        "kind": "base",
        "digest": BASE,
        "base": "tiny/bert/v2",
        "size_bytes": 4000,
        "aliases": ["tiny"],
        "architecture": "encoder-only",
        "domain": "nlp",
        "parameters": 1000,
        "width": 4,
        "max_length": 32,
    }
    assert news == {
        "id": "acme/news",
        "object": "model",
        "created": int(CREATED.timestamp()),
        "owned_by": "acme",
        "kind": "adapter",
        "digest": "1" * 64,
        "base": "tiny/bert/v2",
        "size_bytes": 100,
        "aliases": [],
        "version": 1,
        "strategy": "feature-extraction",
        "labels": ["business", "sport", "tech"],
    }
    assert mood["id"] == "globex/mood"


@pytest.mark.parametrize("limit", [1, 2, 5, 8, 9])
def test_pages_hold_everything_once_even_when_things_come_and_go(stage: Stage, limit: int) -> None:
    names = [f"acme/m{i}" for i in range(8)]
    stage.services.catalog.versions = {name: adapter_version(name) for name in names}
    seen: list[str] = []
    cursor: str | None = None
    while True:
        query = {"limit": str(limit), **({"cursor": cursor} if cursor else {})}
        page = stage.http.get("/v1/models", params=query).json()
        assert len(page["data"]) <= limit
        seen += [entry["id"] for entry in page["data"]]
        stage.services.catalog.versions["acme/a"] = adapter_version("acme/a")  # before the cursor
        cursor = page["next_cursor"]
        assert page["has_more"] == (cursor is not None)
        if cursor is None:
            break
    assert [name for name in seen if name != "acme/a"] == [*names, "tiny/bert/v2"]


@pytest.mark.parametrize("cursor", ["", "!", "Zm9v", "_-8=", "é", "MA", "a" * 600])
def test_cursors_of_nobody_are_refused(stage: Stage, problem: Check, cursor: str) -> None:
    problem(stage.http.get("/v1/models", params={"cursor": cursor}), 422, "request-invalid")


@pytest.mark.parametrize("limit", ["0", "1001", "x", "-1", "1.5"])
def test_limits_out_of_bounds_are_refused(stage: Stage, problem: Check, limit: str) -> None:
    content = problem(stage.http.get("/v1/models", params={"limit": limit}), 422, "request-invalid")
    assert [error["where"] for error in content["errors"]] == ["query limit"]


def test_one_model_by_any_of_its_names(stage: Stage, problem: Check) -> None:
    for name, found in {
        "acme/news": "acme/news",
        "acme/news@1": "acme/news",
        "acme%2Fnews": "acme/news",
        "tiny": "tiny/bert/v2",
        "tiny/bert": "tiny/bert/v2",
    }.items():
        assert stage.http.get(f"/v1/models/{name}").json()["id"] == found
    problem(stage.http.get("/v1/models/acme/nothing"), 404, "not-found")
    problem(stage.http.get("/v1/models/nothing"), 404, "not-found")
    problem(stage.http.get("/v1/models/acme/news@x"), 422, "reference-malformed")
