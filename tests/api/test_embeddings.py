"""`/v1/embeddings` over an engine whose answers are known."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from tests.api.conftest import Stage
from tests.api.fakes import BASE, WIDTH, adapter_version

Check = Callable[[httpx.Response, int, str], dict[str, Any]]


def test_vectors_come_as_numbers_or_as_bytes(stage: Stage) -> None:
    expected = np.array([[0.5, -1.0, 2.0, 1e-7], [1.5, -1.0, 2.0, 1e-7]], dtype=np.float32)
    numbers = stage.post("/v1/embeddings", {"model": "tiny", "input": ["a", "b"]}).json()
    assert [np.float32(item["embedding"]).tolist() for item in numbers["data"]] == expected.tolist()
    assert [item["index"] for item in numbers["data"]] == [0, 1]
    assert (numbers["object"], numbers["model"], numbers["digest"]) == ("list", "tiny/bert/v2", BASE)
    assert numbers["usage"] == {"prompt_tokens": 10, "total_tokens": 10}
    packed = stage.post("/v1/embeddings", {"model": "tiny", "input": ["a", "b"], "encoding_format": "base64"}).json()
    assert [base64.b64decode(item["embedding"]) for item in packed["data"]] == [row.tobytes() for row in expected]


def test_an_adapter_gives_its_own_vectors(stage: Stage) -> None:
    answer = stage.post("/v1/embeddings", {"model": "acme/news", "input": "a"}).json()
    assert (answer["model"], answer["digest"]) == ("acme/news@1", "1" * 64)
    stage.post("/v1/embeddings", {"model": "tiny", "input": "a"})
    assert stage.engine.seen == [("acme", BASE, "1" * 64, ["a"]), ("local", BASE, None, ["a"])]


@pytest.mark.parametrize("model", ["tiny", "acme/news", "tiny/bert"])
def test_dimensions_must_be_the_width(stage: Stage, problem: Check, model: str) -> None:
    stage.services.bases.models[BASE] = stage.services.bases.models["tiny"]
    body = {"model": model, "input": "a", "dimensions": WIDTH}
    assert stage.post("/v1/embeddings", body).status_code == 200
    stage.engine.seen.clear()
    content = problem(stage.post("/v1/embeddings", {**body, "dimensions": 2}), 422, "request-invalid")
    assert content["errors"] == [{"pointer": "#/dimensions", "detail": "should be 4, or left out"}]
    assert stage.engine.seen == []


def test_token_ids_are_refused(stage: Stage, problem: Check) -> None:
    answer = problem(stage.post("/v1/embeddings", {"model": "tiny", "input": [[1, 2]]}), 422, "request-invalid")
    assert answer["errors"] == [{"pointer": "#/input/0", "detail": "input should be a valid string"}]


def test_a_name_that_means_a_base_and_an_adapter_is_not_guessed(stage: Stage, problem: Check) -> None:
    assert stage.post("/v1/embeddings", {"model": "tiny/bert", "input": "a"}).json()["model"] == "tiny/bert/v2"
    stage.services.catalog.versions["tiny/bert"] = adapter_version("tiny/bert")
    content = problem(stage.post("/v1/embeddings", {"model": "tiny/bert", "input": "a"}), 409, "conflict")
    assert "'tiny/bert/v2'" in content["remedy"]
    assert stage.post("/v1/embeddings", {"model": "tiny/bert@1", "input": "a"}).json()["model"] == "tiny/bert@1"


def test_unknown_models(stage: Stage, problem: Check) -> None:
    for model in ("nothing", "acme/nothing", "acme/nothing@1"):
        problem(stage.post("/v1/embeddings", {"model": model, "input": "a"}), 404, "not-found")
