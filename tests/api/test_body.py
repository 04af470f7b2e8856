"""Bodies that are not as they should be."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.requests import Request

from graftwork.api.app import create_app
from graftwork.api.body import read_body
from graftwork.api.limits import ServerLimits
from graftwork.api.schemas import ClassifyRequest
from graftwork.errors import RequestInvalid, RequestTooLarge
from tests.api.conftest import LIMITS, Stage
from tests.api.fakes import FakeEngine, FakeServices
from tests.api.live import live

Check = Callable[[httpx.Response, int, str], dict[str, Any]]
JSON = {"Content-Type": "application/json"}


def curl(stage: Stage, *arguments: str, body: bytes = b"") -> httpx.Response:
    """Send what no HTTP library would, with curl."""
    command = ["curl", "-sS", "-i", "--max-time", "20", *arguments, stage.url + "/v1/classify"]
    done = subprocess.run(command, input=body, capture_output=True, check=True)
    parts = done.stdout.split(b"\r\n\r\n")
    while parts[0].startswith(b"HTTP/1.1 100"):
        parts = parts[1:]
    status, *lines = parts[0].decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return httpx.Response(int(status.split()[1]), headers=headers, content=b"\r\n\r\n".join(parts[1:]))


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "the body is empty"),
        (b"  ", "the body is empty"),
        (b"{not json", "the body is not JSON: Expecting property name enclosed in double quotes at line 1, column 2"),
        (
            b'{"model": "acme/news",\n "inputs": ["a"',
            "the body is not JSON: Expecting ',' delimiter at line 2, column 16",
        ),
        (b"[" * 15_000, "the body is nested too deeply or holds a number that is too long"),
        (b'{"model": ' + b"9" * 10_000 + b"}", "the body is nested too deeply or holds a number that is too long"),
    ],
)
def test_what_is_not_json_is_told_with_its_place(stage: Stage, problem: Check, body: bytes, detail: str) -> None:
    answer = curl(stage, "-H", "Content-Type: application/json", "--data-binary", "@-", body=body)
    assert problem(answer, 422, "request-invalid")["detail"] == detail
    assert stage.engine.seen == []


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({}, {"#/model": "field required", "#/inputs": "field required"}),
        ([], {"#": "should be an object"}),
        ("text", {"#": "should be an object"}),
        (
            {"model": 3, "inputs": ["fine", 4, None], "top_k": 0, "topk": 1},
            {
                "#/model": "input should be a valid string",
                "#/inputs/1": "input should be a valid string",
                "#/inputs/2": "input should be a valid string",
                "#/top_k": "input should be greater than or equal to 1",
                "#/topk": "extra inputs are not permitted",
            },
        ),
        ({"model": "acme/news", "inputs": []}, {"#/inputs": "should hold at least one text"}),
        ({"model": "acme/news", "inputs": {"text": "a"}}, {"#/inputs": "should be a text or a list of texts"}),
        ({"model": "acme/news", "inputs": "a", "top_k": "2"}, {"#/top_k": "input should be a valid integer"}),
        ({"model": "acme/news", "inputs": "a", "top_k": True}, {"#/top_k": "input should be a valid integer"}),
        ({"model": "acme/news", "inputs": ["a", "b\x00c"]}, {"#/inputs/1": "holds a NUL character"}),
    ],
)
def test_every_mistake_is_listed_with_its_pointer(
    stage: Stage, problem: Check, body: Any, errors: dict[str, str]
) -> None:
    content = problem(stage.post("/v1/classify", body), 422, "request-invalid")
    assert {error["pointer"]: error["detail"] for error in content["errors"]} == errors
    assert stage.engine.seen == []


@pytest.mark.parametrize("bad", [b"\xff\xfe", b"caf\xe9", b"\\ud83d", b"\\udc00x", b"\xed\xa0\x80"])
def test_what_is_not_unicode_is_named_by_index(stage: Stage, problem: Check, bad: bytes) -> None:
    body = b'{"model": "acme/news", "inputs": ["fine", "' + bad + b'", "\\ud83d\\ude00"]}'
    answer = curl(stage, "-H", "Content-Type: application/json", "--data-binary", "@-", body=body)
    content = problem(answer, 422, "request-invalid")
    assert content["errors"] == [
        {"pointer": "#/inputs/1", "detail": "holds bytes that are not UTF-8, or a lone surrogate"}
    ]


def test_only_so_many_mistakes_are_listed(problem: Check, stage: Stage) -> None:
    body = {"model": "acme/news", "inputs": "a", **{f"field{i}": 1 for i in range(150)}}
    errors = problem(stage.post("/v1/classify", body), 422, "request-invalid")["errors"]
    assert len(errors) == 101
    assert errors[-1]["detail"] == "and 50 more mistakes"


def test_pointers_are_escaped_and_short(problem: Check, stage: Stage) -> None:
    body = {"model": "acme/news", "inputs": "a", "a/b~c": 1, "x" * 500: 1}
    errors = problem(stage.post("/v1/classify", body), 422, "request-invalid")["errors"]
    assert {error["pointer"] for error in errors} == {"#/a~1b~0c", "#/" + "x" * 80}


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"Content-Type": "text/plain"}, "is said to be 'text/plain'"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "is said to be 'application/x-www-form-urlencoded'"),
        ({}, "has no Content-Type"),
        ({**JSON, "Content-Encoding": "gzip"}, "is compressed"),
    ],
)
def test_only_plain_json_is_read(stage: Stage, problem: Check, headers: dict[str, str], words: str) -> None:
    answer = stage.http.post("/v1/classify", content=b'{"model": "acme/news", "inputs": "a"}', headers=headers)
    assert words in problem(answer, 415, "media-type-unsupported")["detail"]


def test_json_with_a_charset_is_read(stage: Stage) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    answer = stage.http.post("/v1/classify", content=b'{"model": "acme/news", "inputs": "a"}', headers=headers)
    assert answer.status_code == 200


def test_too_many_texts_and_too_long_texts_are_refused(stage: Stage, problem: Check) -> None:
    many = problem(stage.post("/v1/classify", {"model": "acme/news", "inputs": ["a"] * 51}), 413, "request-too-large")
    assert many["detail"] == "51 texts in one request; at most 50 are taken"
    long = stage.post("/v1/classify", {"model": "acme/news", "inputs": ["a", "b" * 1001, "c" * 1000, "d" * 2000]})
    assert problem(long, 413, "request-too-large")["errors"] == [
        {"pointer": "#/inputs/1", "detail": "1001 characters"},
        {"pointer": "#/inputs/3", "detail": "2000 characters"},
    ]
    assert stage.engine.seen == []


def test_the_largest_that_is_allowed_is_taken(stage: Stage) -> None:
    assert stage.post("/v1/classify", {"model": "acme/news", "inputs": ["a"] * 50}).status_code == 200
    assert stage.post("/v1/classify", {"model": "acme/news", "inputs": "a" * 1000}).status_code == 200


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    assert parts.hostname is not None
    return socket.create_connection((parts.hostname, parts.port or 0), timeout=10)


def answer_on(connection: socket.socket) -> httpx.Response:
    """The next answer on a raw connection."""
    stream = connection.makefile("rb")
    status = int(stream.readline().split()[1])
    headers = {}
    while line := stream.readline().strip():
        name, value = line.decode().split(": ", 1)
        headers[name] = value
    return httpx.Response(status, headers=headers, content=stream.read(int(headers["content-length"])))


START = b"POST /v1/classify HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"


def test_a_body_announced_as_too_large_is_refused_before_a_byte_of_it_came(stage: Stage, problem: Check) -> None:
    with connect(stage.url) as connection:
        connection.sendall(START + b"Content-Length: 20001\r\n\r\n")
        assert "20000 bytes" in problem(answer_on(connection), 413, "request-too-large")["detail"]


def test_a_body_of_unknown_length_is_refused_as_soon_as_it_is_too_large(stage: Stage, problem: Check) -> None:
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    with connect(stage.url) as connection:
        connection.sendall(START + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 2)  # and never ends
        assert "20000 bytes" in problem(answer_on(connection), 413, "request-too-large")["detail"]


def test_a_body_that_does_not_come_is_not_waited_for_long(problem: Check) -> None:
    app = create_app(FakeServices(), FakeEngine(), ServerLimits(body_seconds=0.3))  # type: ignore[arg-type]
    with live(app) as url, connect(url) as connection:
        connection.sendall(START + b'Content-Length: 100\r\n\r\n{"model": ')
        answer = answer_on(connection)
        assert problem(answer, 408, "body-timeout")["detail"] == "the body did not arrive within 0.3 s"
        assert answer.headers["connection"] == "close"
        assert connection.recv(1) == b""


def test_a_client_that_leaves_in_the_middle_of_its_body_hurts_nobody(stage: Stage) -> None:
    with connect(stage.url) as connection:
        connection.sendall(START + b'Content-Length: 100\r\n\r\n{"model": ')
    assert stage.post("/v1/classify", {"model": "acme/news", "inputs": "a"}).status_code == 200


def test_a_server_with_default_limits_refuses_a_hundred_thousand_inputs() -> None:
    body = json.dumps({"model": "acme/news", "inputs": ["a"] * 100_000}).encode()
    with pytest.raises(RequestTooLarge, match="100000 texts in one request; at most 2048 are taken"):
        _read(body, ServerLimits())


async def _request(body: bytes, limits: ServerLimits) -> ClassifyRequest:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {"type": "http", "method": "POST", "headers": Headers(JSON).raw}
    return await read_body(Request(scope, receive), ClassifyRequest, limits)


def _read(body: bytes, limits: ServerLimits) -> ClassifyRequest:
    return asyncio.run(_request(body, limits))


@given(st.one_of(st.binary(max_size=200), st.text(max_size=100).map(lambda t: json.dumps(t).encode())))
def test_no_body_does_worse_than_a_documented_error(body: bytes) -> None:
    for wrapped in (body, b'{"model": "a/b", "inputs": ["' + body + b'"]}'):
        try:
            texts = _read(wrapped, LIMITS).inputs
        except (RequestInvalid, RequestTooLarge):
            continue
        assert "\x00" not in "".join(texts)
        "".join(texts).encode()


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")), min_size=1, max_size=9))
def test_sound_texts_arrive_as_they_were_sent(texts: list[str]) -> None:
    for escape in (True, False):
        body = json.dumps({"model": "a/b", "inputs": texts}, ensure_ascii=escape).encode()
        assert _read(body, LIMITS).inputs == texts
