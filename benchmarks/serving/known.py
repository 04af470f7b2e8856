"""Known answers without sockets: `python -m benchmarks.serving.known`.

Requests of 64 connections are handed to the server's own connections, over an engine that has every vector and adapter
in memory; what they write is thrown away. Beside it uvicorn's own connection with an application that does nothing.
Figures are processor time of one thread, the least of many rounds, and calls of functions, which no neighbour disturbs.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import io
import json
import sys
import time
from dataclasses import replace
from types import FrameType
from typing import Any

import numpy as np
import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from benchmarks.serving.registries import open_backbone, open_registry, registry_of, tenant
from benchmarks.serving.setting import Setting
from graftwork.api.app import create_app
from graftwork.api.connections import bounded_by
from graftwork.api.limits import ServerLimits
from graftwork.api.logs import log_to
from graftwork.registry.scope import EVERYTHING
from graftwork.serving.cache import text_digest
from graftwork.serving.keys import AdapterKey
from graftwork.wiring import Services

_HEAD = (
    b"POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n"
)
_DATE = (b"date", b"Fri, 27 Nov 2026 07:00:00 GMT")
_TEXTS = 2_000


class _Nowhere(asyncio.Transport):
    """A transport that throws away what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0
        self.last = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += 1
        self.last = bytes(data)

    def is_closing(self) -> bool:
        return False

    def resume_reading(self) -> None:
        pass


async def _nothing(_scope: Any, receive: Any, send: Any) -> None:
    await receive()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"1024")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b" " * 1024})


def _connect(protocol: type[HttpToolsProtocol], app: Any, count: int) -> list[tuple[HttpToolsProtocol, _Nowhere]]:
    config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None, access_log=False, timeout_keep_alive=30)
    config.load()
    state = ServerState()
    state.default_headers = [_DATE]
    made = []
    for _ in range(count):
        connection, transport = protocol(config, state, {}, asyncio.get_running_loop()), _Nowhere()
        connection.connection_made(transport)
        made.append((connection, transport))
    return made


async def _round(connections: list[tuple[HttpToolsProtocol, _Nowhere]], requests: list[bytes]) -> None:
    """One request on each connection, until all are answered."""
    before = sum(transport.written for _, transport in connections)
    for (connection, _), request in zip(connections, requests, strict=True):
        connection.data_received(request)
    while sum(transport.written for _, transport in connections) < before + len(connections):
        await asyncio.sleep(0)


async def _seconds(protocol: type[HttpToolsProtocol], app: Any, together: int, requests: list[bytes]) -> float:
    """Processor seconds of a request, of so many at once."""
    connections = _connect(protocol, app, together)
    found = []
    size = 1024
    for start in range(0, len(requests) - size + 1, size):
        begin = time.process_time()
        for at in range(start, start + size, together):
            await _round(connections, requests[at : at + together])
        found.append((time.process_time() - begin) / size)
    return min(found)


async def _calls(protocol: type[HttpToolsProtocol], app: Any, together: int, requests: list[bytes]) -> float:
    """Calls of functions, Python's and C's, of a request."""
    connections = _connect(protocol, app, together)
    await _round(connections, requests[:together])
    calls = 0

    def count(_: FrameType, event: str, __: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    for (connection, _), request in zip(connections, requests[together : 2 * together], strict=True):
        connection.data_received(request)
    await asyncio.sleep(0)
    sys.setprofile(None)
    return calls / together


async def _fill(app: Any, adapters: int, width: int, texts: list[str]) -> None:
    """Every adapter, name and vector into memory."""
    serving = app.state.serving
    engine = serving.engine
    random = np.random.default_rng(0)
    for number in range(adapters):
        version = await serving.lookups.answering(f"{tenant(number)}/head", EVERYTHING)
        base = engine._bases.open(version.base)
        key = AdapterKey(version.digest, version.base)
        engine._adapters.load(key, base.backbone, base.places).result()
    domain = engine._adapters.get(key).domain
    for text in texts:
        engine._cache.put(domain, text_digest(text), random.standard_normal(width, dtype=np.float32), 25)


async def _measure(setting: Setting, services: Services, width: int, rounds: int, profile: str | None) -> None:
    limits = ServerLimits(lookup_seconds=3_600)
    app = create_app(services, services.engine(), limits)
    texts = [f"{number} {'of what was said before ' * 5}" for number in range(_TEXTS)]
    await _fill(app, setting.resident, width, texts)
    gc.collect()
    gc.freeze()
    random = np.random.default_rng(1)
    requests = []
    for _ in range(1024 * rounds):
        model = f"{tenant(int(random.integers(setting.resident)))}/head"
        body = json.dumps({"model": model, "inputs": [texts[random.integers(_TEXTS)]]}).encode()
        requests.append(_HEAD % len(body) + body)
    ours = bounded_by(limits, app.state.instant)
    if profile:
        import cProfile

        connections = _connect(ours, app, 64)
        with cProfile.Profile() as profiler:
            for at in range(0, len(requests) - 63, 64):
                await _round(connections, requests[at : at + 64])
        profiler.dump_stats(profile)
        return
    print(f"{'':32}{'us/request':>12}{'calls/request':>15}")
    for name, protocol, application in (
        ("known answers", ours, app),
        ("an empty endpoint", HttpToolsProtocol, _nothing),
    ):
        for together in (1, 64):
            seconds = await _seconds(protocol, application, together, requests)
            calls = await _calls(protocol, application, together, requests)
            print(f"{name + f', {together} at once':32}{seconds * 1e6:12.1f}{calls:15.1f}", flush=True)
    serving = app.state.serving
    known = serving.engine.stats().known_answers
    print(f"{known} answered at once")


def main() -> None:
    """Measure, and print a table."""
    from benchmarks import machine

    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.known", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="of 1,024 requests, of which the quickest counts")
    parser.add_argument("--profile", help="write a profile of cProfile into this file instead")
    options = parser.parse_args()
    print(machine.describe())
    log_to(io.StringIO())
    setting = replace(Setting(), threads=1)
    backbone = open_backbone(setting)
    home = registry_of(setting, setting.resident, backbone)
    with open_registry(setting, home) as services:
        uvloop.run(_measure(setting, services, backbone.width, options.rounds, options.profile))


if __name__ == "__main__":
    main()
