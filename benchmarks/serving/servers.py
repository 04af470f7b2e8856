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

    def metric(self, name: str) -> float:
        """A number of `/metrics`."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", httpx.get(f"{self.url}/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0


@contextmanager
def graft_serve(home: Path, dtype: str, *options: str) -> Iterator[Server]:
    """`graft serve` over the registry in `home`, with its default flags and log lines into a file."""
    environment = os.environ | {"GRAFT_HOME": str(home), "GRAFT_DTYPE": dtype}
    command = [str(Path(sys.executable).with_name("graft")), "serve", "--port", "0", "--json", *options]
    with (home / "serve.log").open("wb") as log, _running(command, environment, log.fileno()) as server:
        yield server


@contextmanager
def empty_endpoint(body: str) -> Iterator[Server]:
    """The same HTTP stack without anything behind it: it reads no body, and answers always the same."""
    with _running([sys.executable, "-c", _EMPTY, body], dict(os.environ), None) as server:
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
