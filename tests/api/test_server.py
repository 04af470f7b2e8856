"""Starting and stopping, in real processes with real signals."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import httpx
import pytest

from graftwork.api.server import run_server
from graftwork.errors import NotFound, PortInUse, SettingsInvalid
from tests.api.fakes import FakeServices

BODY = {"model": "acme/news", "inputs": "one"}


class Untouched(FakeServices):
    """Services that fail the test when anything heavy is asked of them."""

    def engine(self, limits: object = None, *, compiled: bool = False) -> None:
        raise AssertionError("an engine was made")


@pytest.fixture
def child() -> Iterator[dict[str, subprocess.Popen[str]]]:
    running: dict[str, subprocess.Popen[str]] = {}
    yield running
    for process in running.values():
        process.kill()
        process.communicate()


def start(running: dict[str, subprocess.Popen[str]], mode: str, port: int = 0) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "tests.api.child", mode, str(port)]
    running[mode] = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    return running[mode]


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def refuses(url: str) -> None:
    """Come back once nothing listens at `url` any more."""
    parts = httpx.URL(url)
    with contextlib.suppress(ConnectionError):
        while True:
            socket.create_connection((parts.host, parts.port or 0), timeout=10).close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_what_was_accepted_and_takes_nothing_new(
    child: dict[str, subprocess.Popen[str]], number: signal.Signals
) -> None:
    process = start(child, "hold")
    url = heard(process).removeprefix("ready ")
    answers: list[httpx.Response] = []
    asking = [
        threading.Thread(target=lambda: answers.append(httpx.post(url + "/v1/classify", json=BODY))) for _ in range(3)
    ]
    for thread in asking:
        thread.start()
    assert [heard(process) for _ in asking] == ["held"] * 3
    process.send_signal(number)
    refuses(url)
    assert answers == []
    for _ in asking:
        tell(process)
    for thread in asking:
        thread.join(30)
    assert [answer.status_code for answer in answers] == [200] * 3
    out, err = process.communicate(timeout=30)
    assert (out.split("\n"), err) == (["closed True", "end", ""], "")
    assert process.returncode == 0


def test_it_is_alive_but_not_ready_while_base_models_load(child: dict[str, subprocess.Popen[str]]) -> None:
    with socket.socket() as reserved:  # bound, not listening: free for the child, and for nobody by chance
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        process = start(child, "preload", port)
        assert heard(process) == "loading bbbb"
    url = f"http://127.0.0.1:{port}"
    assert httpx.get(url + "/healthz").status_code == 200
    waiting = httpx.get(url + "/readyz")
    assert (waiting.status_code, waiting.json()["detail"]) == (503, "loading base model tiny/bert/v2, 1 of 2")
    tell(process)
    assert heard(process) == "loading bbbb"
    assert httpx.get(url + "/readyz").json()["detail"] == "loading base model tiny/bert/v2, 2 of 2"
    tell(process)
    assert heard(process) == f"ready {url}"
    assert httpx.get(url + "/readyz").json() == {"status": "ready"}
    process.terminate()
    assert process.wait(30) == 0


def test_a_base_model_that_cannot_be_loaded_stops_the_server(child: dict[str, subprocess.Popen[str]]) -> None:
    process = start(child, "broken")
    out, err = process.communicate(timeout=30)
    assert (out.split("\n"), err) == (["closed True", "failed model-unreadable", ""], "")
    assert process.returncode == 2


def test_a_taken_port_is_told_before_anything_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=f"port {port} of 127.0.0.1 is taken"):
            run_server(Untouched(), "127.0.0.1", port)  # type: ignore[arg-type]


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 8080), ("127.0.0.1", 70_000), ("no such host", 8080)])
def test_addresses_that_cannot_be_listened_on(host: str, port: int) -> None:
    with pytest.raises(SettingsInvalid):
        run_server(Untouched(), host, port)  # type: ignore[arg-type]


def test_what_is_unknown_and_shall_be_loaded_is_told_before_anything_is() -> None:
    with pytest.raises(NotFound):
        run_server(Untouched(), "127.0.0.1", 0, preload=["nothing"])  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        run_server(Untouched(), "127.0.0.1", 0, pins=["acme/nothing"])  # type: ignore[arg-type]


def test_the_engine_is_asked_for_compiled_networks() -> None:
    class Recording(FakeServices):
        def engine(self, limits: object = None, *, compiled: bool = False) -> None:
            raise LookupError(f"compiled: {compiled}")

    with pytest.raises(LookupError, match="compiled: True"):
        run_server(Recording(), "127.0.0.1", 0)  # type: ignore[arg-type]
