"""The same texts for several models in one request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest

from graftwork.api import schemas
from graftwork.errors import ArtifactInvalid, DeadlineExceeded, QueueFull
from tests.api.conftest import Stage
from tests.api.fakes import BASE

Check = Callable[[httpx.Response, int, str], dict[str, Any]]
BOTH = {"models": ["acme/news", "globex/mood"], "inputs": ["one", "two"], "top_k": 1}
ROWS = [{"labels": [{"label": "sport", "score": 0.5}]}] * 2


def test_each_model_answers_in_the_order_asked(stage: Stage) -> None:
    answer = stage.post("/v1/classify", BOTH).json()
    assert 0 < answer.pop("latency_ms") < 30_000
    common = {"digest": "1" * 64, "base": "tiny/bert/v2", "results": ROWS, "tokens": 10}
    assert answer == {"answers": [{"model": "acme/news@1", **common}, {"model": "globex/mood@1", **common}]}
    assert stage.engine.seen == [(tenant, BASE, "1" * 64, ["one", "two"]) for tenant in ("acme", "globex")]


def test_one_model_in_a_list_and_one_text_are_lists_of_one(stage: Stage) -> None:
    (answer,) = stage.post("/v1/classify", {"models": ["acme/news"], "inputs": "one"}).json()["answers"]
    assert len(answer["results"]) == 1


def test_a_model_that_is_not_found_does_not_spoil_the_others(stage: Stage) -> None:
    sent = {"models": ["acme/nothing", "acme/news", "Not A Name"], "inputs": ["one", "two"], "top_k": 1}
    response = stage.post("/v1/classify", sent)
    assert response.status_code == 200
    missing, found, malformed = response.json()["answers"]
    assert (found["model"], found["results"]) == ("acme/news@1", ROWS)
    for failed, name, code, status in (
        (missing, "acme/nothing", "not-found", 404),
        (malformed, "Not A Name", "reference-malformed", 422),
    ):
        assert failed["model"] == name
        assert (failed["error"]["code"], failed["error"]["status"]) == (code, status)
        assert failed["error"]["request_id"] == response.headers["x-request-id"]
        schemas.FailureOfModel.model_validate(failed)
    assert len(stage.engine.seen) == 1


def test_a_model_that_the_engine_fails_does_not_spoil_the_others(stage: Stage) -> None:
    stage.engine.held = True
    got: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: got.append(stage.post("/v1/classify", BOTH)))
    asking.start()
    (first, _), (second, answer) = (stage.engine.waiting.get(timeout=10) for _ in range(2))
    second.set_result(answer)
    first.set_exception(ArtifactInvalid("NaN in /home/secret/file"))
    asking.join(10)
    failed, found = got[0].json()["answers"]
    assert (failed["error"]["code"], failed["error"]["detail"]) == ("artifact-invalid", "NaN in (path)")
    assert found["results"] == ROWS


def test_when_all_fail_the_first_ones_problem_is_the_answer_and_all_are_listed(stage: Stage, problem: Check) -> None:
    content = problem(
        stage.post("/v1/classify", {"models": ["acme/nothing", "Not A Name"], "inputs": "one"}), 404, "not-found"
    )
    assert content["detail"] == "no adapter named 'acme/nothing'"
    assert [error["pointer"] for error in content["errors"]] == ["#/models/0", "#/models/1"]
    assert "Not A Name" in content["errors"][1]["detail"]
    stage.engine.refusal = QueueFull("full", retry_after=7.0)
    refused = stage.post("/v1/classify", BOTH)
    problem(refused, 429, "queue-full")
    assert refused.headers["retry-after"] == "7"


def test_an_error_that_nobody_expected_is_told_without_its_words(stage: Stage, problem: Check) -> None:
    stage.engine.held = True
    got: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: got.append(stage.post("/v1/classify", BOTH)))
    asking.start()
    for error in (ZeroDivisionError("secret"), DeadlineExceeded("late")):
        stage.engine.waiting.get(timeout=10)[0].set_exception(error)
    asking.join(10)
    assert "secret" not in got[0].text
    problem(got[0], 500, "internal")


@pytest.mark.parametrize(
    ("body", "pointer", "detail"),
    [
        ({"models": [], "inputs": "a"}, "#/models", "should hold at least one name"),
        ({"models": "acme/news", "inputs": "a"}, "#/models", "should be a list of names"),
        ({"models": ["acme/news", "acme/news"], "inputs": "a"}, "#/models", "should hold no name twice"),
        ({"models": ["acme/news", 3], "inputs": "a"}, "#/models/1", "input should be a valid string"),
        ({"models": ["acme/news", ""], "inputs": "a"}, "#/models/1", "string should have at least 1 character"),
        ({"models": ["acme/news"], "model": "acme/news", "inputs": "a"}, "#/models", "extra inputs are not permitted"),
        ({"models": ["acme/news"], "inputs": "a", "topk": 1}, "#/topk", "extra inputs are not permitted"),
        ({"models": ["acme/news"]}, "#/inputs", "field required"),
    ],
)
def test_mistakes_are_told(stage: Stage, problem: Check, body: Any, pointer: str, detail: str) -> None:
    content = problem(stage.post("/v1/classify", body), 422, "request-invalid")
    assert content["errors"] == [{"pointer": pointer, "detail": detail}]
    assert stage.engine.seen == []


def test_too_many_models_or_answers_are_refused(stage: Stage, problem: Check) -> None:
    many = stage.post("/v1/classify", {"models": [f"acme/n{i}" for i in range(5)], "inputs": "a"})
    assert problem(many, 413, "request-too-large")["detail"] == "5 models in one request; at most 4 are asked"
    wide = stage.post("/v1/classify", {"models": ["acme/news", "globex/mood"], "inputs": ["a"] * 26})
    assert "26 texts for 2 models" in problem(wide, 413, "request-too-large")["detail"]
    assert stage.post("/v1/classify", {"models": ["acme/news", "globex/mood"], "inputs": ["a"] * 25}).is_success


def _set(event: threading.Event, _: object) -> None:
    event.set()


def test_a_client_that_leaves_frees_every_place(stage: Stage) -> None:
    stage.engine.held = True

    async def leave() -> None:
        async with httpx.AsyncClient(base_url=stage.url) as http:
            asking = asyncio.create_task(http.post("/v1/classify", json=BOTH))
            futures = [(await asyncio.to_thread(stage.engine.waiting.get, timeout=10))[0] for _ in range(2)]
            freed = [threading.Event() for _ in futures]
            for future, event in zip(futures, freed, strict=True):
                future.add_done_callback(partial(_set, event))
            asking.cancel()
            for event in freed:
                assert await asyncio.to_thread(event.wait, 10)
            assert all(future.cancelled() for future in futures)

    asyncio.run(leave())
