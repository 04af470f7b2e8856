"""An open-loop load generator in a process of its own: `python -m benchmarks.serving.http_load HOST PORT FILE ...`.

Requests leave at random times of a fixed rate, whether or not earlier ones were answered, and each latency counts from
the time at which its request was to leave: a server that stalls is charged for all that would have come meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import deque
from pathlib import Path


class _Connection(asyncio.Protocol):
    """One request at a time; tells its load when it is free."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._scheduled = 0.0
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._load.free.append(self)

    def send(self, scheduled: float, request: bytes) -> None:
        self._scheduled = scheduled
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        self._received = b""
        self._load.answered(self, self._scheduled, head.startswith(b"HTTP/1.1 200"))


class _Load:
    def __init__(self) -> None:
        self.free: deque[_Connection] = deque()
        self.latencies: list[float] = []
        self.errors = 0
        self._late: deque[tuple[float, bytes]] = deque()

    def send(self, scheduled: float, request: bytes) -> None:
        if self.free:
            self.free.popleft().send(scheduled, request)
        else:
            self._late.append((scheduled, request))

    def answered(self, connection: _Connection, scheduled: float, good: bool) -> None:
        self.latencies.append(time.perf_counter() - scheduled)
        self.errors += not good
        if self._late:
            connection.send(*self._late.popleft())
        else:
            self.free.append(connection)


async def _run(host: str, port: int, requests: list[bytes], rate: float, seconds: float, connections: int) -> _Load:
    load = _Load()
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: _Connection(load), host, port)
    chance = random.Random(0)
    sent, due = 0, time.perf_counter() + 0.1
    end = due + seconds
    while due < end:
        wait = due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        while due <= time.perf_counter() and due < end:
            load.send(due, requests[sent % len(requests)])
            sent += 1
            due += chance.expovariate(rate)
    while len(load.latencies) < sent and time.perf_counter() < end + 30:
        await asyncio.sleep(0.05)
    load.errors += sent - len(load.latencies)
    return load


def main() -> None:
    """Load a server, and print what was seen as JSON."""
    import uvloop

    host, port, file, rate, seconds, connections = sys.argv[1:]
    head = f"POST /v1/classify HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: "
    requests = [head.encode() + b"%d\r\n\r\n" % len(body) + body for body in Path(file).read_bytes().splitlines()]
    cpu = time.process_time()
    load = uvloop.run(_run(host, int(port), requests, float(rate), float(seconds), int(connections)))
    ordered = sorted(load.latencies)
    percentiles = {str(p): ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))] for p in (50, 99, 99.9)}
    print(
        json.dumps(
            {
                "answers": len(ordered),
                "errors": load.errors,
                "seconds": percentiles,
                "cpu": time.process_time() - cpu,
            }
        )
    )


if __name__ == "__main__":
    main()
