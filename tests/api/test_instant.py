"""Known answers are given where requests are read: the same answers, in the order of requests, however they come."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graftwork.api.limits import ServerLimits
from graftwork.errors import QueueFull
from tests.api.fakes import FakeEngine, OneEngine
from tests.api.live import running
from tests.api.test_body import connect

LIMITS = ServerLimits(inputs=40, lookup_seconds=3_600, idle_seconds=1)
KNOWN, UNKNOWN = "we have met", "who are you"


class Quiet:
    """A database that nobody writes to."""

    @contextmanager
    def read(self, *, patience: float | None = None) -> Iterator[Any]:
        yield SimpleNamespace(scalar=lambda _: 1)


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[str, FakeEngine]]:
    services = OneEngine(Quiet())
    with running(services, LIMITS) as url:
        # From now on the name is known.
        assert httpx.post(f"{url}/v1/classify", json=asked([UNKNOWN])).status_code == 200
        yield url, services.made


@pytest.fixture
def server(shared: tuple[str, FakeEngine]) -> tuple[str, FakeEngine]:
    shared[1].reset()
    shared[1].known = frozenset({KNOWN, ""})
    return shared


def request(number: int | None, body: Any, head: str = "") -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    own = "" if number is None else f"X-Request-ID: r{number}\r\n"
    line = f"POST /v1/classify HTTP/1.1\r\nHost: here\r\n{own}{head}"
    return f"{line}Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n".encode() + raw


def asked(texts: list[str], **more: Any) -> dict[str, Any]:
    return {"model": "acme/news", "inputs": texts, **more}


# What is sent, and the status that comes back.
REQUESTS = [
    (asked([KNOWN]), 200),
    (asked([KNOWN, ""], top_k=1), 200),
    (asked([UNKNOWN]), 200),
    (asked([KNOWN, UNKNOWN]), 200),
    (asked([KNOWN] * 40), 200),
    (asked([KNOWN] * 41), 413),
    ({"models": ["acme/news", "globex/mood"], "inputs": [KNOWN]}, 200),
    ({"model": "acme/nobody", "inputs": [KNOWN]}, 404),
    ({"model": "acme/news", "inputs": [3]}, 422),
    (b"{no", 422),
    (b"", 422),
]


def answers(stream: Any, count: int) -> list[tuple[int, dict[str, str], bytes]]:
    found = []
    for _ in range(count):
        status = int(stream.readline().split()[1])
        headers = dict(line.decode().strip().lower().split(": ", 1) for line in iter(stream.readline, b"\r\n"))
        found.append((status, headers, stream.read(int(headers["content-length"]))))
    return found


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    chosen=st.lists(st.integers(0, len(REQUESTS) - 1), min_size=1, max_size=8),
    cuts=st.lists(st.floats(0, 1), max_size=6),
)
def test_whatever_is_sent_however_it_is_cut_each_request_has_its_answer_in_order(
    chosen: list[int], cuts: list[float], server: tuple[str, FakeEngine]
) -> None:
    url, _ = server
    sent = b"".join(request(number, REQUESTS[kind][0]) for number, kind in enumerate(chosen))
    places = sorted({0, len(sent), *(int(cut * len(sent)) for cut in cuts)})
    with connect(url) as connection, connection.makefile("rb") as stream:
        for begin, end in itertools.pairwise(places):
            connection.sendall(sent[begin:end])
        found = answers(stream, len(chosen))
    for number, (kind, (status, headers, content)) in enumerate(zip(chosen, found, strict=True)):
        body, wanted = REQUESTS[kind]
        assert (status, headers["x-request-id"]) == (wanted, f"r{number}")
        assert headers["content-type"] == ("application/json" if wanted == 200 else "application/problem+json")
        if isinstance(body, dict) and "model" in body and wanted == 200:
            answer = json.loads(content)
            scores = [
                {"label": "sport", "score": 0.5},
                {"label": "business", "score": 0.25},
                {"label": "tech", "score": 0.25},
            ]
            assert answer["results"] == [{"labels": scores[: body.get("top_k")]}] * len(body["inputs"])
            assert (answer["model"], answer["tokens"]) == ("acme/news@1", 5 * len(body["inputs"]))


def test_what_is_known_does_not_reach_the_application_and_is_counted_like_all(server: tuple[str, FakeEngine]) -> None:
    url, engine = server
    count = 'graftwork_http_requests_total{method="POST",route="/v1/classify",status="200"}'
    with httpx.Client(base_url=url) as client:

        def counted() -> float:
            return next(float(line.split()[1]) for line in client.get("/metrics").text.splitlines() if count in line)

        before = counted()
        for texts in ([KNOWN], [UNKNOWN], [KNOWN], [""], [KNOWN, UNKNOWN], [""]):
            answer = client.post("/v1/classify", json=asked(texts))
            assert answer.status_code == 200
            assert len(answer.headers["x-request-id"]) == 32
            assert "date" in answer.headers
        assert counted() == before + 6
    assert [texts for *_, texts in engine.seen] == [[UNKNOWN], [KNOWN, UNKNOWN]]


@pytest.mark.parametrize("head", ["Connection: close\r\n", "Expect: 100-continue\r\n", "Content-Encoding: gzip\r\n"])
def test_what_is_not_plain_is_left_to_the_application(server: tuple[str, FakeEngine], head: str) -> None:
    url, engine = server
    with connect(url) as connection, connection.makefile("rb") as stream:
        connection.sendall(request(0, asked([KNOWN]), head))
        if "100" in head:
            assert stream.readline() == b"HTTP/1.1 100 Continue\r\n"
            stream.readline()
        ((status, _, _),) = answers(stream, 1)
        assert status == (415 if "gzip" in head else 200)
        assert not head.startswith("Connection") or stream.read() == b""
    assert len(engine.seen) == (status == 200)


def test_an_error_on_the_way_is_told_by_the_application(
    server: tuple[str, FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, engine = server
    for error in (QueueFull("no room", retry_after=2.0), RuntimeError("a bug")):

        def fail(*_: Any, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(engine, "classify_known", fail)
        assert httpx.post(f"{url}/v1/classify", json=asked([KNOWN])).status_code == 200


@pytest.mark.parametrize("numbers", [(0, 1), (None,)])
def test_a_connection_in_use_is_not_taken_for_one_that_rests(
    server: tuple[str, FakeEngine], numbers: tuple[int | None, ...]
) -> None:
    url, engine = server
    with connect(url) as connection, connection.makefile("rb") as stream:
        end = time.monotonic() + 1.5 * LIMITS.idle_seconds
        while time.monotonic() < end:
            connection.sendall(b"".join(request(number, asked([KNOWN])) for number in numbers))
            assert [status for status, _, _ in answers(stream, len(numbers))] == [200] * len(numbers)
        assert stream.read() == b""  # and then, at rest, it is closed
    assert engine.seen == []
