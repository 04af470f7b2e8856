"""The short way: it takes nothing that the documented shapes refuse, means the same by it, and waits for nobody."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from graftwork.api import direct, schemas
from graftwork.api.completions import Completions
from graftwork.api.limits import ServerLimits
from graftwork.api.wellformed import classify_body, predict_body
from graftwork.errors import RequestTooLarge
from tests.api.conftest import Stage
from tests.api.test_body import answer_on, connect

LIMITS = ServerLimits(inputs=6, models=3, text_characters=20)

texts = st.text(max_size=25) | st.sampled_from(["", "\x00", "é", "\ud83d", "a" * 20, "a" * 21])
odd: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers(-1, 3) | st.just(1.0) | texts | st.just({})
names = st.sampled_from(["a/b", "c/d:e", "", "x" * 257, "\ud800", "n\x00"]) | odd
inputs = texts | st.lists(texts | odd, max_size=7) | odd
functions = st.sampled_from(["softmax", "sigmoid", "none", "tanh"]) | odd
parameters = odd | st.fixed_dictionaries({}, optional={"top_k": odd, "function_to_apply": functions, "more": odd})


def members(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[tuple[str, Any]]]:
    """Objects as pairs, in which members may be missing, or be there twice."""
    return st.lists(st.one_of(*(st.tuples(st.just(name), value) for name, value in values.items())), max_size=5)


def written(pairs: list[tuple[str, Any]], *, escape: bool) -> bytes:
    parts = (f"{json.dumps(name)}:{json.dumps(value, ensure_ascii=escape)}" for name, value in pairs)
    return f"{{{','.join(parts)}}}".encode("utf-8", "surrogatepass")


def judged(shape: type[Any], raw: bytes) -> Any:
    """What the model makes of a body; None when it refuses it."""
    try:
        return shape.model_validate_json(raw, context=LIMITS)
    except (ValidationError, RequestTooLarge):
        return None


@given(
    members(model=names, models=st.lists(names, max_size=4) | names, inputs=inputs, top_k=odd, more=odd), st.booleans()
)
def test_what_is_taken_by_hand_is_what_the_models_take(pairs: list[tuple[str, Any]], escape: bool) -> None:
    raw = written(pairs, escape=escape)
    wanted = classify_body(raw, LIMITS)
    one, each = judged(schemas.ClassifyRequest, raw), judged(schemas.ClassifyEachRequest, raw)
    if wanted is None:
        return
    body = each if wanted.several else one
    assert body is not None
    assert list(wanted.models) == (body.models if wanted.several else [body.model])
    assert (list(wanted.texts), wanted.top_k) == (body.inputs, body.top_k)


@given(members(inputs=inputs, parameters=parameters, more=odd), st.booleans())
def test_the_same_for_predict(pairs: list[tuple[str, Any]], escape: bool) -> None:
    raw = written(pairs, escape=escape)
    wanted, body = predict_body(raw, LIMITS, "a/b"), judged(schemas.PredictRequest, raw)
    if wanted is None:
        return
    assert body is not None
    tuned = body.parameters or schemas.PredictParameters()
    assert (wanted.models, wanted.several) == (("a/b",), False)
    assert list(wanted.texts) == body.inputs
    assert (wanted.top_k, wanted.function) == (tuned.top_k, tuned.function_to_apply)


@pytest.mark.parametrize(
    "body",
    [
        {"model": "acme/news", "inputs": "a text"},
        {"model": "acme/news@3", "inputs": ["a", "é", "\U0001f98a", ""], "top_k": 2},
        {"model": "acme/news", "inputs": ["a"] * 6, "top_k": None},
        {"models": ["a/b", "c/d"], "inputs": ["a", "b", "c"]},
    ],
)
def test_what_clients_send_is_taken_by_hand(body: dict[str, Any]) -> None:
    for escape in (True, False):
        assert classify_body(json.dumps(body, ensure_ascii=escape).encode(), LIMITS) is not None
    tuned = {"inputs": body["inputs"], "parameters": {"top_k": 1, "function_to_apply": "sigmoid"}, "options": {}}
    assert predict_body(json.dumps(tuned).encode(), LIMITS, "a/b") is not None


@pytest.mark.parametrize("path", ["/v1/classify", "/predict/acme/news", "/predict/acme/news@1", "/predict/acme/n%65ws"])
def test_well_formed_requests_never_reach_the_framework(stage: Stage, path: str) -> None:
    body = {"inputs": ["a"]} if "predict" in path else {"model": "acme/news", "inputs": ["a"]}
    with patch.object(direct, "_replayed", side_effect=AssertionError("the framework was asked")):
        answer = stage.post(path, body, headers={"X-Request-ID": "mine"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (200, "mine")
    assert answer.headers["content-type"] == "application/json"


def test_a_body_in_pieces_is_read_by_the_framework_and_answered_the_same(stage: Stage) -> None:
    body = b'{"model": "acme/news", "inputs": ["a"]}'
    head = b"POST /v1/classify HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked"
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    with connect(stage.url) as connection:
        connection.sendall(head + b"\r\n\r\n" + chunks[:12])
        connection.sendall(chunks[12:] + b"0\r\n\r\n")
        answer = answer_on(connection)
    assert (answer.status_code, answer.json()["model"]) == (200, "acme/news@1")


def test_requests_in_one_packet_are_answered_one_after_the_other(stage: Stage) -> None:
    body = b'{"model": "acme/news", "inputs": ["a"]}'
    head = b"POST /v1/classify HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    with connect(stage.url) as connection:
        connection.sendall((head % len(body) + body) * 3)
        received = b""
        while received.count(b'"model":"acme/news@1"') < 3:
            received += connection.recv(65_536)
    assert received.count(b"HTTP/1.1 200 OK") == 3


def test_the_loop_is_woken_once_for_all_that_finish_together() -> None:
    async def wait() -> tuple[list[Any], int]:
        loop, completions = asyncio.get_running_loop(), Completions()
        futures: list[Future[int]] = [Future() for _ in range(50)]
        waiting = asyncio.gather(*map(completions.waiter, futures), return_exceptions=True)

        def finish() -> None:
            for number, future in enumerate(futures):
                if number % 2:
                    future.set_result(number)
                else:
                    future.set_exception(ValueError(number))

        with patch.object(loop, "call_soon_threadsafe", wraps=loop.call_soon_threadsafe) as wake:
            finish()  # on the loop's own thread, so that it cannot answer in between
            woken = wake.call_count
            return await waiting, woken

    results, woken = asyncio.run(wait())
    assert woken == 1
    assert results[1::2] == list(range(1, 50, 2))
    assert [error.args for error in results[::2]] == [(number,) for number in range(0, 50, 2)]


def test_no_completion_is_lost_among_threads() -> None:
    async def wait(pool: ThreadPoolExecutor) -> list[int]:
        completions = Completions()
        return await asyncio.gather(*(completions.waiter(pool.submit(int, number)) for number in range(2_000)))

    with ThreadPoolExecutor(4) as pool:
        assert asyncio.run(wait(pool)) == list(range(2_000))
