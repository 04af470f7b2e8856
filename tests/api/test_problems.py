"""Errors, whoever raises them, as whole problems that tell nothing they should not."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from graftwork.api.problems import pointer, problem_content
from graftwork.errors import (
    BlobDamaged,
    DeadlineExceeded,
    GraftworkError,
    NotFound,
    Problem,
    QueueFull,
    ServiceUnavailable,
    StorageFull,
)
from tests.api.conftest import Stage

Check = Callable[[httpx.Response, int, str], dict[str, Any]]
BODY = {"model": "acme/news", "inputs": "a secret text"}


def all_errors(kind: type[GraftworkError] = GraftworkError) -> list[type[GraftworkError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in all_errors(child))]


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_every_error_of_the_tree_is_a_problem(stage: Stage, problem: Check, kind: type[GraftworkError]) -> None:
    stage.engine.refusal = kind("what was wrong", remedy="what to do", problems=[Problem("row 3", "is empty")])
    content = problem(stage.post("/v1/classify", BODY), kind.status, kind.code)
    if kind is not GraftworkError:
        assert content["errors"] == [{"where": "row 3", "detail": "is empty"}]
        assert (content["detail"], content["remedy"]) == ("what was wrong", "what to do")


def test_retry_after_is_told_in_whole_seconds_upwards(stage: Stage, problem: Check) -> None:
    for error, seconds in (
        (QueueFull("full", retry_after=0.2), "1"),
        (ServiceUnavailable("stopping", retry_after=2.1), "3"),
    ):
        stage.engine.refusal = error
        answer = stage.post("/v1/classify", BODY)
        problem(answer, error.status, error.code)
        assert answer.headers["retry-after"] == seconds
    stage.engine.refusal = DeadlineExceeded("late")
    assert "retry-after" not in stage.post("/v1/classify", BODY).headers


def test_an_unexpected_error_shows_nothing_and_is_logged_with_the_request_id(
    stage: Stage, problem: Check, caplog: pytest.LogCaptureFixture
) -> None:
    stage.services.catalog.failure = ZeroDivisionError("in /srv/graftwork/secret.py")
    with caplog.at_level(logging.ERROR, logger="graftwork.api"):
        answer = stage.post("/v1/classify", BODY)
    content = problem(answer, 500, "internal")
    assert not re.search("secret|Zero|Traceback|srv", json.dumps(content))
    assert [record.__dict__["request_id"] for record in caplog.records] == [content["request_id"]]
    assert "ZeroDivisionError: in /srv/graftwork/secret.py" in caplog.text
    stage.services.catalog.failure = None
    assert stage.post("/v1/classify", BODY).status_code == 200


def test_paths_of_the_machine_stay_in_the_log(stage: Stage, problem: Check, caplog: pytest.LogCaptureFixture) -> None:
    stage.engine.refusal = BlobDamaged(
        "blob ab12 at /srv/blobs/ab/12 is cut short",
        remedy="Restore 'file:///srv/backup/ab12', then retry.",
        problems=[Problem("C:\\blobs\\ab", "16 bytes instead of 32, see /srv/blobs/ab/12")],
    )
    with caplog.at_level(logging.ERROR, logger="graftwork.api"):
        content = problem(stage.post("/v1/classify", BODY), 503, "blob-damaged")
    assert content["detail"] == "blob ab12 at (path) is cut short"
    assert content["remedy"] == "Restore '(path)', then retry."
    assert content["errors"] == [{"where": "(path)", "detail": "16 bytes instead of 32, see (path)"}]
    assert "/srv/blobs/ab/12" in caplog.text


def test_references_and_sentences_are_no_paths() -> None:
    words = "acme/news@3 on minilm/l6/v2: 1/2 of the bytes, text/plain"
    assert problem_content(StorageFull(words), "r")["detail"] == words


def test_unknown_urls_and_methods(stage: Stage, problem: Check) -> None:
    for path in ("/", "/v1/classify/", "/v1/nothing", "/predict/acme", "/predict/a/b/c"):
        problem(stage.http.get(path), 404, "route-unknown")
    answer = stage.http.get("/v1/classify")
    assert "Use POST" in problem(answer, 405, "method-not-allowed")["remedy"]
    assert answer.headers["allow"] == "POST"


def test_foreign_and_missing_are_told_in_the_same_words(stage: Stage, problem: Check) -> None:
    answers = [
        problem(stage.post("/v1/classify", {"model": f"acme/{name}", "inputs": "a"}), 404, "not-found")
        for name in ("gone", "none")
    ]
    assert [answer["detail"] for answer in answers] == ["no adapter named 'acme/gone'", "no adapter named 'acme/none'"]


@pytest.mark.parametrize(
    "model", ["news", "Acme/News", "acme/news@0", "acme/news@1:x", "a/b/c", "../..", "acme/new\ns"]
)
def test_malformed_references(stage: Stage, problem: Check, model: str) -> None:
    problem(stage.post("/v1/classify", {"model": model, "inputs": "a"}), 422, "reference-malformed")


def test_the_words_also_stand_in_the_header_that_hugging_face_reads(stage: Stage) -> None:
    stage.engine.refusal = NotFound("no adapter\r\nnamed 'née'" + "x" * 600)
    header = stage.post("/v1/classify", BODY).headers["x-error-message"]
    assert header.startswith("no adapter named 'n?e'x")
    assert len(header) == 500


def test_one_line_says_everything(stage: Stage) -> None:
    answer = stage.post("/v1/embeddings", {"model": "tiny", "input": "a", "dimensions": 2})
    line = (
        "the model's vectors have 4 numbers, not 2; #/dimensions: should be 4, or left out. "
        "Leave 'dimensions' out: vectors are not shortened."
    )
    assert answer.json()["message"] == answer.headers["x-error-message"] == line


def test_pointers_follow_the_standard() -> None:
    assert pointer([]) == "#"
    assert pointer(["inputs", 0]) == "#/inputs/0"
    assert pointer(["a/b", "m~n"]) == "#/a~1b/m~0n"
