"""Adapters of several tasks over HTTP: all answers, one of them, and what has room for one alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graftwork.client import Client
from graftwork.errors import RequestInvalid
from graftwork.registry.tasks import TaskColumns
from graftwork.serving.request import Classified
from tests.api import fakes
from tests.api.conftest import Stage

TASKS = (TaskColumns("mood", ("bad", "good"), 0), TaskColumns("topic", ("business", "sport", "tech"), 2))
LABELS = ("mood/bad", "mood/good", "topic/business", "topic/sport", "topic/tech")
BODY = {"model": "acme/news", "inputs": ["Late goal", "Shares fall"]}


@pytest.fixture
def several(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A server whose adapters answer two tasks."""

    def classified(adapter: str, texts: Any) -> Classified:
        logits = np.log(np.array([[0.25, 0.75, 0.25, 0.5, 0.25]] * len(texts), dtype=np.float32))
        return Classified(LABELS, logits, adapter, 5 * len(texts), 0.0, TASKS)

    monkeypatch.setattr(fakes, "_classified", classified)
    return stage


def test_every_task_is_answered_unless_one_is_asked_for(several: Stage) -> None:
    answer = several.post("/v1/classify", BODY | {"top_k": 1}).json()
    assert answer["results"] == [
        {"tasks": {"mood": [{"label": "good", "score": 0.75}], "topic": [{"label": "sport", "score": 0.5}]}}
    ] * len(BODY["inputs"])
    assert "task" not in answer
    one = several.post("/v1/classify", BODY | {"task": "mood"}).json()
    assert one["task"] == "mood"
    assert one["results"][1]["labels"] == [{"label": "good", "score": 0.75}, {"label": "bad", "score": 0.25}]
    each = several.post("/v1/classify", {"models": ["acme/news", "globex/mood"], "inputs": "Late goal"}).json()
    assert [set(entry["results"][0]["tasks"]) for entry in each["answers"]] == [{"mood", "topic"}] * 2


def test_unknown_tasks_and_tasks_of_one_task_adapters_are_refused(
    several: Stage, problem: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = problem(several.post("/v1/classify", BODY | {"task": "topics"}), 422, "request-invalid")
    assert "Did you mean 'topic'?" in found["remedy"]
    problem(several.post("/v1/classify", BODY | {"task": ""}), 422, "request-invalid")
    monkeypatch.undo()
    found = problem(several.post("/v1/classify", BODY | {"task": "topic"}), 422, "request-invalid")
    assert "no tasks to choose from" in found["detail"]


def test_the_route_of_one_list_a_text_has_to_be_told_which(
    several: Stage, problem: Callable[..., dict[str, Any]]
) -> None:
    body = {"inputs": "Late goal"}
    found = problem(several.post("/predict/acme/news", body), 422, "request-invalid")
    assert "(mood, topic)" in found["detail"]
    assert "?task=NAME" in found["remedy"]
    answer = several.post("/predict/acme/news?task=topic", body | {"parameters": {"top_k": 2}}).json()
    assert [one["label"] for one in answer[0]] == ["sport", "business"]
    problem(several.post("/predict/acme/news?task=none", body), 422, "request-invalid")


def test_the_client_gives_tasks_by_name(several: Stage) -> None:
    with Client(several.url) as client:
        answers = client.classify("acme/news", ["Late goal"])
        assert answers[0].tasks["topic"].label == "sport"
        assert answers[0].tasks["mood"].score == pytest.approx(0.75)
        with pytest.raises(RequestInvalid, match="one of several tasks"):
            _ = answers[0].label
        assert client.classify("acme/news", "Late goal", task="mood")[0].label == "good"
