"""Connections that keep the server waiting are let go of, on real sockets; an engine that dies ends the process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from graftwork.api.limits import ServerLimits
from tests.api.builders import NEWS, classifier, open_tiny
from tests.api.fakes import OneEngine
from tests.api.live import running
from tests.api.test_body import START, answer_on, connect

LIMITS = ServerLimits(connections=3, header_seconds=0.6, body_seconds=0.6, send_seconds=0.6, idle_seconds=0.6)
BODY = b'{"model": "acme/news", "inputs": ["a"]}'


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, OneEngine]]:
    """A server with short patience."""
    services = OneEngine()
    with running(services, LIMITS) as url:
        yield url, services


def ends(connection: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    received = b""
    while part := connection.recv(65_536):
        received += part
    return received


def test_a_connection_that_sends_nothing_is_closed(server: tuple[str, OneEngine]) -> None:
    with connect(server[0]) as connection:
        assert ends(connection) == b""


def test_headers_that_come_slowly_are_not_waited_for(server: tuple[str, OneEngine]) -> None:
    with connect(server[0]) as connection:
        connection.sendall(START)
        answer = answer_on(connection)
        assert (answer.status_code, answer.json()["code"]) == (408, "request-timeout")
        assert answer.headers["connection"] == "close"
        assert ends(connection) == b""


def test_a_body_that_comes_slowly_is_not_waited_for(server: tuple[str, OneEngine]) -> None:
    with connect(server[0]) as connection:
        connection.sendall(START + b"Content-Length: 100\r\n\r\n{")
        assert answer_on(connection).json()["code"] == "body-timeout"
        assert ends(connection) == b""


def test_a_connection_that_rests_is_closed(server: tuple[str, OneEngine]) -> None:
    with connect(server[0]) as connection:
        connection.sendall(START + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        assert answer_on(connection).status_code == 200
        assert ends(connection) == b""


def test_a_client_that_does_not_read_is_let_go_of(server: tuple[str, OneEngine]) -> None:
    large = json.dumps({"model": "acme/news", "inputs": ["a"] * 2_000}).encode()
    request = START + b"Content-Length: %d\r\n\r\n" % len(large) + large
    with connect(server[0]) as connection, pytest.raises(ConnectionError):
        connection.sendall(request * 5_000)  # more than both sides buffer: it ends when it is cut off


def test_one_connection_too_many_is_refused_and_the_others_go_on(server: tuple[str, OneEngine]) -> None:
    url, _ = server
    with httpx.Client(base_url=url) as first, connect(url), connect(url):
        assert first.get("/healthz").status_code == 200
        with connect(url) as fourth:
            answer = answer_on(fourth)
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert answer.headers["retry-after"] == "1"
            assert ends(fourth) == b""
        assert first.get("/healthz").status_code == 200


def test_a_socket_that_is_cut_off_cancels_its_request(server: tuple[str, OneEngine]) -> None:
    url, services = server
    services.made.held = True
    with connect(url) as connection:
        connection.sendall(START + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        future, _ = services.made.waiting.get(timeout=10)
        freed = threading.Event()
        future.add_done_callback(lambda _: freed.set())
    assert freed.wait(10)
    assert future.cancelled()
    services.made.held = False


QUICK = os.environ | {"GRAFT_COMPILE": "false"}
DYING = """
import sys
from pathlib import Path
from graftwork.api.server import run_server
from graftwork.errors import GraftworkError
from graftwork.serving.engine import Engine
from tests.api.builders import open_tiny

step = Engine.step
def once(self, timeout=0.0):
    if step(self, timeout):
        raise MemoryError("no more")
    return False
Engine.step = once
with open_tiny(Path(sys.argv[1])) as services:
    try:
        run_server(services, port=0, on_ready=lambda url: print(url, flush=True))
    except GraftworkError as error:
        print(error)
        sys.exit(error.exit_code)
"""


def test_when_the_engines_thread_dies_the_process_ends_with_an_error(tmp_path: Path) -> None:
    with open_tiny(tmp_path) as services:
        services.catalog.publish("acme/news", classifier(services.bases.resolve("tiny"), NEWS, seed=1))
    process = subprocess.Popen(
        [sys.executable, "-c", DYING, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=QUICK
    )
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    answer = httpx.post(f"{url}/v1/classify", json=json.loads(BODY), timeout=60)
    assert answer.status_code in (200, 503)
    out, _ = process.communicate(timeout=60)
    assert "the engine's thread died: MemoryError: no more" in out
    assert process.returncode == 1
