"""`/v1/classify` and `/predict` over an engine whose answers are known."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graftwork.api.ranking import ranked
from tests.api.conftest import Stage
from tests.api.fakes import BASE, adapter_version


def test_an_answer_names_what_gave_it(stage: Stage) -> None:
    answer = stage.post("/v1/classify", {"model": "acme/news", "inputs": ["one", "two"], "top_k": 2}).json()
    latency = answer.pop("latency_ms")
    assert 0 < latency < 30_000
    # business and tech are equal: the classifier's own order decides.
    row = {"labels": [{"label": "sport", "score": 0.5}, {"label": "business", "score": 0.25}]}
    assert answer == {
        "model": "acme/news@1",
        "digest": "1" * 64,
        "base": "tiny/bert/v2",
        "results": [row, row],
        "tokens": 10,
    }
    assert stage.engine.seen == [("acme", BASE, "1" * 64, ["one", "two"])]


def test_one_text_is_a_list_of_one_and_all_labels_are_the_default(stage: Stage) -> None:
    answer = stage.post("/v1/classify", {"model": "acme/news", "inputs": "one"}).json()
    assert [score["label"] for score in answer["results"][0]["labels"]] == ["sport", "business", "tech"]
    assert len(answer["results"]) == 1


def test_more_labels_than_there_are_gives_all(stage: Stage) -> None:
    answer = stage.post("/v1/classify", {"model": "acme/news", "inputs": "one", "top_k": 99}).json()
    assert len(answer["results"][0]["labels"]) == 3


def test_the_reference_is_resolved_once_and_kept(stage: Stage) -> None:
    stage.engine.held = True
    got: list[httpx.Response] = []
    asking = threading.Thread(
        target=lambda: got.append(stage.post("/v1/classify", {"model": "acme/news", "inputs": "one"}))
    )
    asking.start()
    future, answer = stage.engine.waiting.get(timeout=10)
    stage.services.catalog.versions["acme/news"] = adapter_version("acme/news", 2)
    future.set_result(answer)
    asking.join(10)
    assert (got[0].json()["model"], got[0].json()["digest"]) == ("acme/news@1", "1" * 64)
    stage.engine.held = False
    assert stage.post("/v1/classify", {"model": "acme/news", "inputs": "one"}).json()["model"] == "acme/news@2"


def test_long_requests_are_tokenised_away_from_the_event_loop(stage: Stage) -> None:
    for texts in (["short"], ["a" * 900] * 5):
        assert stage.post("/v1/classify", {"model": "acme/news", "inputs": texts}).status_code == 200
        assert stage.post("/v1/embeddings", {"model": "tiny", "input": texts}).status_code == 200
    short, also_short, *long = stage.engine.admitted_by
    assert short == also_short
    assert short not in long


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/embeddings", "/predict/acme/news"])
def test_a_client_that_leaves_frees_its_place(stage: Stage, path: str) -> None:
    stage.engine.held = True
    body: dict[str, Any] = {"model": "acme/news", "inputs": "one", "input": "one"}
    if path == "/v1/classify":
        del body["input"]

    async def leave() -> None:
        async with httpx.AsyncClient(base_url=stage.url) as http:
            asking = asyncio.create_task(http.post(path, json=body))
            future, _ = await asyncio.to_thread(stage.engine.waiting.get, timeout=10)
            freed = threading.Event()
            future.add_done_callback(lambda _: freed.set())
            asking.cancel()
            assert await asyncio.to_thread(freed.wait, 10)
            assert future.cancelled()

    asyncio.run(leave())
    stage.engine.held = False
    assert stage.post(path, body).status_code == 200


def test_predict_has_the_shape_of_hugging_face(stage: Stage) -> None:
    answer = stage.post("/predict/acme/news", {"inputs": "one", "parameters": {"top_k": 1}})
    assert answer.json() == [[{"label": "sport", "score": 0.5}]]
    assert answer.headers["x-graftwork-model"] == "acme/news@1"
    assert answer.headers["x-graftwork-digest"] == "1" * 64
    assert len(stage.post("/predict/acme/news", {"inputs": ["one", "two", "three"]}).json()) == 3
    assert stage.post("/predict/acme/news@1", {"inputs": "one", "parameters": None}).status_code == 200
    assert stage.post("/predict/acme/news:production", {"inputs": "one", "options": {"use_cache": True}}).is_success


def test_predict_refuses_functions_that_do_not_exist(stage: Stage) -> None:
    answer = stage.post("/predict/acme/news", {"inputs": "one", "parameters": {"function_to_apply": "tanh"}}).json()
    assert answer["errors"] == [
        {"pointer": "#/parameters/function_to_apply", "detail": "input should be 'softmax', 'sigmoid' or 'none'"}
    ]


def test_predict_gives_logits_that_a_softmax_turns_back_into_the_scores(stage: Stage) -> None:
    row = stage.post("/predict/acme/news", {"inputs": "one", "parameters": {"function_to_apply": "none"}}).json()[0]
    powers = {entry["label"]: np.exp(entry["score"]) for entry in row}
    total = sum(powers.values())
    assert {label: round(power / total, 6) for label, power in powers.items()} == {
        "sport": 0.5,
        "business": 0.25,
        "tech": 0.25,
    }
    assert row[0]["label"] == "sport"
    assert row[0]["score"] == pytest.approx(np.log(0.5))


def test_predict_gives_the_sigmoid_of_each_logit(stage: Stage) -> None:
    row = stage.post("/predict/acme/news", {"inputs": "one", "parameters": {"function_to_apply": "sigmoid"}}).json()[0]
    assert {entry["label"]: entry["score"] for entry in row} == pytest.approx(
        {"sport": 0.5 / 1.5, "business": 0.25 / 1.25, "tech": 0.25 / 1.25}
    )


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(2, 9)), elements=st.sampled_from([0.0, 0.25, 0.5])),
    st.none() | st.integers(1, 12),
)
def test_ranking_sorts_and_breaks_ties_by_the_order_of_labels(scores: np.ndarray, top_k: int | None) -> None:
    labels = tuple(f'label "{i}" é' for i in range(scores.shape[1]))
    for row, answer in zip(scores.tolist(), ranked(labels, scores, top_k), strict=True):
        expected = sorted(range(len(row)), key=lambda i: (-row[i], i))[:top_k]
        assert json.loads(answer) == [{"label": labels[i], "score": row[i]} for i in expected]
