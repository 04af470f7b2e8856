"""Requests that are answered together get what each would get alone, from the application's own route."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch
from zlib import crc32

import numpy as np
import pytest
import uvicorn
from hypothesis import example, given, settings
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from graftwork.api import classifying
from graftwork.api.app import create_app
from graftwork.api.connections import BoundedConnection, bounded_by
from graftwork.api.instant import Instant
from graftwork.api.known_heads import KnownHeads
from graftwork.api.limits import ServerLimits
from graftwork.registry.scope import EVERYTHING
from graftwork.serving.request import Ask, Classified
from tests.api.fakes import FakeEngine, OneEngine, adapter_version
from tests.api.test_instant import Quiet

LIMITS = ServerLimits(inputs=40, lookup_seconds=3_600)
HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
CLASSES = {"acme/two": 2, "acme/three": 3, "acme/nine": 9}


class Told(FakeEngine):
    """Answers each text in its own way, with ties; the first figure of an adapter's digest is its number of classes."""

    def reset(self) -> None:
        super().reset()
        self.batches: list[int] = []

    def classify_known(self, asks: Sequence[Ask], texts: Sequence[Sequence[str]]) -> list[Classified | None]:
        self.batches.append(len(asks))
        if any("trouble" in text for each in texts for text in each):
            raise ZeroDivisionError("a bug")
        return [
            None if "unknown" in "".join(each) else told(ask.adapter, each)
            for ask, each in zip(asks, texts, strict=True)
        ]

    def classify(self, *ask: Any, deadline: float | None = None) -> Any:
        *_, adapter, texts = ask
        return self._answer(told(adapter, texts))


def told(adapter: str, texts: Sequence[str]) -> Classified:
    labels = tuple(f'label "{number}" é' for number in range(int(adapter[0])))
    logits = [[crc32(f"{text}{label}".encode()) % 7 / 1.3 for label in labels] for text in texts]
    return Classified(labels, np.array(logits, dtype=np.float32), adapter, 5 * len(texts))


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Server:
    """Connections to an application whose names are known, without sockets."""

    def __init__(self) -> None:
        services = OneEngine(Quiet())
        services.made = self.engine = Told()
        services.catalog.versions = {
            name: replace(adapter_version(name), digest=str(count) * 64) for name, count in CLASSES.items()
        }
        self.app = create_app(services, self.engine, LIMITS)  # type: ignore[arg-type]

    async def connect(self, count: int, *, plainly: bool = False) -> list[tuple[Any, Wire]]:
        for name in CLASSES:
            await self.app.state.serving.lookups.answering(name, EVERYTHING)
        config = uvicorn.Config(self.app, ws="none", lifespan="off", log_config=None, access_log=False)
        config.load()
        state = ServerState()
        state.default_headers = [(b"date", b"today")]
        protocol = HttpToolsProtocol if plainly else bounded_by(LIMITS, self.app.state.instant)
        made = [(protocol(config, state, {}, asyncio.get_running_loop()), Wire()) for _ in range(count)]
        for connection, wire in made:
            connection.connection_made(wire)
        return made


def body_of(model: str, *texts: str, **more: Any) -> bytes:
    return json.dumps({"model": model, "inputs": texts, **more}).encode()


def request(model: str, *texts: str, **more: Any) -> bytes:
    body = body_of(model, *texts, **more)
    return HEAD % len(body) + body


KINDS = [
    *(request(model, text) for model in CLASSES for text in ("a", "b", "é")),
    request("acme/nine", "a", "b", "c"),
    request("acme/nine", "c", top_k=2),
    request("acme/three", "unknown"),
    request("acme/three", "trouble"),
    request("acme/three", "a", task="mood"),
    request("acme/nobody", "a"),
    HEAD % 3 + b"{no",
    HEAD.replace(b"Host", b"X-Request-ID: mine\r\nHost") % len(body_of("acme/two", "a")) + body_of("acme/two", "a"),
    request("acme/two", "a") * 2,
    b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n",
]


async def answered(made: list[tuple[Any, Wire]], counts: Sequence[int]) -> None:
    async with asyncio.timeout(20):
        while any(wire.written.count(b"HTTP/1.1 ") < count for (_, wire), count in zip(made, counts, strict=True)):
            await asyncio.sleep(0)


async def traffic(server: Server, sent: Sequence[tuple[int, bytes, bool, bool]], *, plainly: bool) -> list[bytes]:
    """Each is a connection, bytes, whether they come in two parts, and whether all answers are waited for then."""
    made = await server.connect(3, plainly=plainly)
    counts = [0, 0, 0]
    for number, data, cut, wait in sent:
        cuts = [data[: len(data) // 2], data[len(data) // 2 :]] if cut else [data]
        for part in cuts:
            made[number][0].data_received(part)
        counts[number] += data.count(b" HTTP/1.1\r\n")
        if wait:
            await answered(made, counts)
    await answered(made, counts)
    return [re.sub(rb"[0-9a-f]{32}", b"ID", wire.written) for _, wire in made]


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(KINDS), st.booleans(), st.booleans()), max_size=25))
@example([(number % 3, kind, False, number % 4 == 0) for number, kind in enumerate(KINDS * 2)])
def test_each_connection_is_answered_as_by_the_application(sent: list[tuple[int, bytes, bool, bool]]) -> None:
    server = Server()
    with patch.object(classifying, "_latency_ms", lambda _: "1.000"):
        together = asyncio.run(traffic(server, sent, plainly=False))
        assert together == asyncio.run(traffic(server, sent, plainly=True))


async def learned(server: Server, count: int) -> list[tuple[BoundedConnection, Wire]]:
    """Connections that wait for requests like those that were read before."""
    made = await server.connect(count)
    made[0][0].data_received(request("acme/two", "a"))
    for _, wire in made:
        wire.written = b""
    server.engine.batches.clear()
    return made


def test_what_comes_in_one_round_of_the_loop_is_answered_together_and_one_alone_at_once() -> None:
    async def together() -> None:
        server = Server()
        made = await learned(server, 100)
        for connection, _ in made:
            connection.data_received(request("acme/two", "b"))
        assert server.engine.batches == [64]  # no more wait for each other
        await asyncio.sleep(0)
        assert server.engine.batches == [64, 36]
        made[0][0].data_received(request("acme/two", "c"))
        await asyncio.sleep(0)
        assert server.engine.batches == [64, 36, 1]
        assert [wire.written.count(b"200 OK") for _, wire in made] == [2, *[1] * 99]

    asyncio.run(together())


def test_one_that_fails_takes_no_other_with_it(caplog: pytest.LogCaptureFixture) -> None:
    async def together() -> None:
        server = Server()
        made = await learned(server, 3)
        for (connection, _), text in zip(made, ("b", "trouble", "c"), strict=True):
            connection.data_received(request("acme/two", text))
        await answered(made, [1, 1, 1])
        assert server.engine.batches == [3, 1, 1, 1]
        assert [wire.written.count(b"200 OK") for _, wire in made] == [1, 1, 1]

    asyncio.run(together())
    assert caplog.text.count("\nZeroDivisionError: a bug") == 1


@pytest.mark.parametrize("event", ["more", "eof_received", "shutdown", "lost"])
def test_whatever_happens_to_a_connection_that_waits_comes_after_its_answer(event: str) -> None:
    async def happens() -> None:
        (connection, wire), other = await learned(Server(), 2)
        connection.data_received(request("acme/two", "b"))
        other[0].data_received(request("acme/nine", "b"))
        if event == "more":
            connection.data_received(request("acme/three", "unknown"))
        elif event == "lost":
            wire.close()
            connection.connection_lost(None)
        else:
            getattr(connection, event)()
        assert wire.written.count(b"200 OK") == (event != "lost")
        await asyncio.sleep(0)
        assert other[1].written.count(b"200 OK") == 1
        if event == "more":
            await answered([(connection, wire)], [2])
            assert wire.written.index(b"acme/two") < wire.written.index(b"acme/three")

    asyncio.run(happens())


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        (HEAD % 2 + b"{}", True),
        (b"\r\n\r\n" + HEAD % 2 + b"{}", False),  # what comes before a request is skipped by the parser
        (HEAD % 2 + b"{}{", False),
        (HEAD % 3 + b"{}", False),
        (HEAD.replace(b"Host", b"X-Request-ID: mine\r\nHost") % 2 + b"{}", False),
        (HEAD.replace(b"here", b"h" * 1_024) % 2 + b"{}", False),
        (
            HEAD.replace(b"Content-Length: %d", b"Content-Length: 6\n") + b"\r\n{}",
            False,
        ),  # ends early for some
    ],
)
def test_a_head_is_known_when_the_same_bytes_came_before(data: bytes, kept: bool) -> None:
    heads = KnownHeads(Instant.line, 100)
    assert heads.request(data) is None
    lines = data.replace(b"\n\n", b"\n").split(b"\r\n\r\n")[0].splitlines()[1:] if data.startswith(b"POST") else []
    heads.keep(data, [(name.lower(), value) for name, value in (line.split(b": ") for line in lines if line)])
    found = heads.request(data)
    assert (found is not None) == kept
    if found is not None:
        assert (found.body, dict(found.headers)[b"host"], len(found.request_id)) == (b"{}", b"here", 32)
        assert heads.request(data + b"x") is None
        assert heads.request(data[:-1]) is None
        assert heads.request(data.replace(b"here", b"there")) is None
        longer = heads.request(HEAD % 100 + b"x" * 100)
        assert longer is not None
        assert longer.body == b"x" * 100
        assert heads.request(HEAD % 101 + b"x" * 101) is None


def test_only_so_many_heads_are_kept_and_the_oldest_goes() -> None:
    heads = KnownHeads(Instant.line, 100)
    seen = [HEAD.replace(b"here", b"%d" % number) % 1 + b"1" for number in range(1_025)]
    for data in seen:
        heads.keep(data, [(b"content-length", b"1")])
    assert [heads.request(data) is None for data in (seen[0], seen[1], seen[-1])] == [True, False, False]
