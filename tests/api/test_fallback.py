"""Who has no adapter yet is answered from the nearest above, and every answer says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from graftwork import Client
from tests.api.conftest import Stage
from tests.api.fakes import BASE, adapter_version


@pytest.fixture
def chain(stage: Stage) -> Stage:
    for name in ("acme/eu", "acme/eu~fr", "acme/eu~fr~user1"):
        stage.services.catalog.versions[name] = adapter_version(name)
    return stage


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("acme/eu~fr~user7", "acme/eu~fr@1"),
        ("acme/eu~de~user7", "acme/eu@1"),
        ("acme/eu~de:production", "acme/eu@1"),
    ],
)
def test_the_nearest_that_is_there_answers_and_says_so(chain: Stage, asked: str, answered: str) -> None:
    answer = chain.post("/v1/classify", {"model": asked, "inputs": "one"}).json()
    assert (answer["model"], answer["fallback_for"]) == (answered, asked)
    assert chain.engine.seen[-1][:2] == ("acme", BASE)
    done = chain.http.post(f"/predict/{asked}", json={"inputs": "one"})
    assert (done.headers["x-graftwork-model"], done.headers["x-graftwork-fallback-for"]) == (answered, asked)


def test_who_has_an_adapter_is_answered_by_it_alone(chain: Stage) -> None:
    answer = chain.post("/v1/classify", {"model": "acme/eu~fr~user1", "inputs": "one"}).json()
    assert answer["model"] == "acme/eu~fr~user1@1"
    assert "fallback_for" not in answer
    done = chain.http.post("/predict/acme/eu~fr~user1", json={"inputs": "one"})
    assert "x-graftwork-fallback-for" not in done.headers


@pytest.mark.parametrize("asked", ["acme/eu~fr~user7@1", "acme/us~user7", "acme/nothing", "globex/eu~user7"])
def test_versions_names_of_one_part_and_other_tenants_never_fall_back(
    chain: Stage, problem: Callable[[httpx.Response, int, str], dict[str, Any]], asked: str
) -> None:
    content = problem(chain.post("/v1/classify", {"model": asked, "inputs": "one"}), 404, "not-found")
    assert asked.partition("@")[0] in content["detail"]


def test_each_of_several_says_for_itself(chain: Stage) -> None:
    body = {"models": ["acme/eu~fr~user1", "acme/eu~fr~user7"], "inputs": "one"}
    answers = chain.post("/v1/classify", body).json()["answers"]
    assert [answer.get("fallback_for") for answer in answers] == [None, "acme/eu~fr~user7"]
    with Client(chain.url) as client:
        assert client.classify("acme/eu~fr~user7", "one").fallback_for == "acme/eu~fr~user7"
        assert client.classify("acme/eu", "one").fallback_for is None


def test_vectors_are_never_those_of_another(
    chain: Stage, problem: Callable[[httpx.Response, int, str], dict[str, Any]]
) -> None:
    problem(chain.post("/v1/embeddings", {"model": "acme/eu~user7", "input": "one"}), 404, "not-found")
