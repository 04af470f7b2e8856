"""Servers in processes of their own, and what they cost: `graft serve`, and an endpoint that does nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from benchmarks.serving.setting import Setting

_TICKS = os.sysconf("SC_CLK_TCK")
_EMPTY = """
import socket, sys, uvicorn
body = sys.argv[1].encode()
start = {"type": "http.response.start", "status": 200, "headers": [
    (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]}
async def app(scope, receive, send):
    await receive()
    await send(start)
    await send({"type": "http.response.body", "body": body})
with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
    print('"url": "http://127.0.0.1:%d"' % listener.getsockname()[1], flush=True)
    config = uvicorn.Config(app, http="httptools", loop="uvloop", ws="none", lifespan="off", log_config=None,
                            access_log=False, proxy_headers=False, server_header=False)
    uvicorn.Server(config).run(sockets=[listener])
"""


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        url: where it answers.
        pid: its process.
    """

    url: str
    pid: int

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def cpu_seconds(self) -> float:
        """Processor seconds of the process until now, all its threads, the compiler's processes not counted."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident(self) -> int:
        """Bytes of its memory that are in RAM."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024

    def metric(self, name: str) -> float:
        """A number of `/metrics` that has no labels, without the prefix of the engine's."""
        text = httpx.get(f"{self.url}/metrics", timeout=60).text
        found = re.search(rf"^graftwork_engine_{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0


@contextmanager
def graft_serve(home: Path, setting: Setting, *options: str, compiled: bool = True) -> Iterator[Server]:
    """`graft serve` over the registry in `home`, with its default flags and log lines into a file."""
    environment = os.environ | {
        "GRAFT_HOME": str(home.absolute()),
        "GRAFT_DTYPE": setting.dtype,
        "GRAFT_COMPILE": str(compiled),
        "OMP_NUM_THREADS": str(setting.threads),
    }
    command = [str(Path(sys.executable).with_name("graft")), "serve", "--port", "0", "--json", *options]
    with (home / "serve.log").open("wb") as log, _running(command, environment, log.fileno()) as server:
        yield server


@contextmanager
def empty_endpoint(body: str) -> Iterator[Server]:
    """The same HTTP stack without anything behind it: it reads no body, and answers always the same."""
    with _running([sys.executable, "-c", _EMPTY, body], dict(os.environ), None) as server:
        yield server


@contextmanager
def bare_server() -> Iterator[Server]:
    """The least server of the same network, with the benchmarks' own settings."""
    with _running([sys.executable, "-m", "benchmarks.serving.bare_server"], dict(os.environ), None) as server:
        yield server


@contextmanager
def _running(command: list[str], environment: dict[str, str], log: int | None) -> Iterator[Server]:
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log) as process:
        try:
            assert process.stdout is not None
            told = next((line for line in process.stdout if b'"url"' in line), None)
            if told is None:
                raise SystemExit(f"{command[0]} did not start; see its log")
            yield Server(re.findall(r"http://[^\"]+", told.decode())[0], process.pid)
        finally:
            process.terminate()
            process.wait()
