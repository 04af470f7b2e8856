"""The whole server over HTTP: `python -m benchmarks.serving.http [sections...] [--seconds N]`, or `... serving http`.

cpu       unique texts, LoRA adapters of 1,000 tenants: processor time of the server beside the bare forward's, in turn,
          and latency at 50 % and 80 % of what saturates it, in open loop, beside a loop of the bare network alone and
          the least server of it
repeated  texts that come back (Zipf), head-only: answers a second beside an endpoint that does nothing
unlogged  the same with --no-log
large     32 texts in a request, unique
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.serving.bare_network import bare_network
from benchmarks.serving.registries import open_backbone, registry_of, tenant
from benchmarks.serving.report import Bar, Table
from benchmarks.serving.servers import Server, bare_server, empty_endpoint, graft_serve
from benchmarks.serving.setting import Setting
from benchmarks.serving.texts import Texts
from benchmarks.serving.timing import percentile

_LUA = """
local requests, n = {}, 0
for body in io.lines("FILE") do
  requests[#requests + 1] = wrk.format("POST", "/v1/classify", {["Content-Type"] = "application/json"}, body)
end
request = function() n = n % #requests + 1; return requests[n] end
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format('\\n{"answers": %d, "errors": %d, "seconds": {"50": %f, "99": %f, "99.9": %f}}',
    summary.requests, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1e6, latency:percentile(99) / 1e6, latency:percentile(99.9) / 1e6))
end
"""
_MOST_A_SECOND = 1_500  # unique texts are made for at most so many a second
_WARM_SECONDS = 400.0
_ROUNDS = 3  # of the bare network and the closed loop, in turn
_BARE_BATCHES = 30


def load_generator(setting: Setting) -> str:
    """Where wrk is; the benchmark ends with what to do if it is nowhere."""
    wrk = shutil.which(setting.wrk)
    if wrk is None:
        raise SystemExit("the load generator wrk is missing; install it: apt-get install wrk")
    return wrk


@dataclass(frozen=True)
class Load:
    """What a load did, and what it cost.

    Attributes:
        rate: answers a second.
        p50, p99: seconds.
        errors: answers other than 200, or none.
        server_cpu, client_cpu: processor seconds of an answer.
        cores: processors that the server kept busy.
    """

    rate: float
    p50: float
    p99: float
    errors: int
    server_cpu: float
    client_cpu: float
    cores: float

    def line(self, texts: int = 1) -> tuple[float | int, ...]:
        """Its figures in a table, processor time by the text."""
        each = 1e3 / texts
        return (
            self.rate * texts,
            self.p50 * 1e3,
            self.p99 * 1e3,
            self.server_cpu * each,
            self.client_cpu * each,
            self.cores,
            self.errors,
        )


COLUMNS = ("texts/s", "p50 ms", "p99 ms", "server CPU ms/text", "client CPU ms/text", "server cores", "errors")


class Bench:
    """The sizes, the registry, and texts that no section has used before."""

    def __init__(self, setting: Setting, folder: Path) -> None:
        self.setting = setting
        self.folder = folder
        self.backbone = open_backbone(setting)
        self.home = registry_of(setting, setting.resident, self.backbone)
        self.texts = Texts(setting.corpus, self.backbone.encode)
        self._random = np.random.default_rng(0)

    def serve(self, *options: str) -> AbstractContextManager[Server]:
        """`graft serve` over the registry."""
        return graft_serve(self.home, self.setting, *options)

    def bodies(self, name: str, kind: str, groups: Sequence[Sequence[str]]) -> Path:
        """A file with a body a line, each for an adapter of a tenant drawn at random."""
        path = self.folder / f"{name}.jsonl"
        tenants = self._random.integers(self.setting.resident, size=len(groups))
        lines = [
            json.dumps({"model": f"{tenant(number)}/{kind}", "inputs": list(texts)})
            for number, texts in zip(tenants.tolist(), groups, strict=True)
        ]
        path.write_text("\n".join(lines) + "\n")
        return path

    def everything(self, kind: str, texts: Sequence[str]) -> Path:
        """Requests that hold each text once, and ask each tenant."""
        tenants = self.setting.resident
        lines = [
            json.dumps({"model": f"{tenant(number)}/{kind}", "inputs": texts[number::tenants] or texts[:1]})
            for number in range(tenants)
        ]
        path = self.folder / "everything.jsonl"
        path.write_text("\n".join(lines) + "\n")
        return path

    def unique(self, name: str, seconds: float, texts: int = 1, kind: str = "lora") -> Path:
        """Enough bodies of unique texts for so many seconds."""
        count = int(_MOST_A_SECOND * seconds) // texts
        made = self.texts.unique(count * texts, self.setting.text_tokens)
        return self.bodies(name, kind, [made[i * texts : (i + 1) * texts] for i in range(count)])

    def ids(self, count: int) -> list[Sequence[int]]:
        """Token ids of unique texts."""
        return list(self.backbone.encode(self.texts.unique(count, self.setting.text_tokens)))

    def closed(self, server: Server, bodies: Path, connections: int, seconds: float | None = None) -> Load:
        """As many requests as the server answers, from `wrk`."""
        wrk = load_generator(self.setting)
        script = bodies.with_suffix(".lua")
        script.write_text(_LUA.replace("FILE", str(bodies)))
        seconds = seconds or self.setting.seconds
        command = [wrk, "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "30s", "-s", script, server.url]
        return _measured(server, [*map(str, command)])

    def open(self, server: Server, bodies: Path, rate: float) -> Load:
        """A fixed rate of requests, whatever the server does."""
        host, port = server.address
        module = [sys.executable, "-m", "benchmarks.serving.http_load"]
        return _measured(server, [*module, host, str(port), str(bodies), str(rate), str(self.setting.seconds), "256"])

    def warm(self, server: Server, kind: str) -> None:
        """Ask until every tenant has been there, and compiled code answers everything."""
        everybody = self.everything(kind, self.texts.unique(self.setting.resident, self.setting.text_tokens))
        end = time.monotonic() + _WARM_SECONDS
        while server.metric("loads_total") < self.setting.resident and time.monotonic() < end:
            self.closed(server, everybody, 8, 3)
        while time.monotonic() < end:
            before = server.metric("eager_batches_total")
            self.closed(server, self.unique("warm", 4, kind=kind), self.setting.connections, 3)
            if server.metric("eager_batches_total") == before:
                return


def _measured(server: Server, command: list[str]) -> Load:
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu, start = server.cpu_seconds(), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, cpu = time.perf_counter() - start, server.cpu_seconds() - cpu
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = json.loads(done.stdout.splitlines()[-1])
    client = after.ru_utime + after.ru_stime - own.ru_utime - own.ru_stime
    answers = max(1, found["answers"])
    latency = found["seconds"]
    return Load(
        answers / seconds, latency["50"], latency["99"], found["errors"], cpu / answers, client / answers, cpu / seconds
    )


def cpu(bench: Bench) -> Iterator[Table]:
    """Unique texts of 1,000 tenants in closed loop, in turn with the bare network, and then at fixed rates."""
    setting = bench.setting
    table = Table(f"Unique texts of {setting.text_tokens} tokens, {setting.resident:,} tenants, LoRA", COLUMNS)
    with bench.serve() as server, bare_network(setting, bench.backbone) as bare:
        bench.warm(server, "lora")
        eager = server.metric("eager_batches_total")
        bares, fulls = [], []
        for number in range(_ROUNDS):
            bares.append(bare.cpu(bench.ids(_BARE_BATCHES * setting.rows)))
            fulls.append(bench.closed(server, bench.unique(f"full{number}", setting.seconds), setting.connections))
            table.lines[f"closed loop, {number + 1}"] = fulls[-1].line()
        eager = server.metric("eager_batches_total") - eager
        rate = median(full.rate for full in fulls)
        for share in (0.5, 0.8):
            load = bench.open(server, bench.unique(f"open{share}", setting.seconds), share * rate)
            table.lines[f"open loop at {share:.0%}"] = load.line()
            alone = bare.latencies(bench.ids(int(share * rate * setting.seconds)), share * rate, setting.seconds)
            table.notes.append(
                f"The bare network in a loop that does nothing else, at {share:.0%}: "
                f"p50 {1e3 * percentile(alone, 50):.1f}, p99 {1e3 * percentile(alone, 99):.1f} ms."
            )
            if share == 0.5:
                table.bars.append(Bar("unique texts at 50 % of saturation, p99 ms", load.p99 * 1e3, 50))
    with bare_server() as least:
        bench.closed(least, bench.unique("least", 3), setting.connections, 3)
        load = bench.open(least, bench.unique("least50", setting.seconds), 0.5 * rate)
        table.lines["the least server at the rate of 50%"] = load.line()
    ratio = median(full.server_cpu / alone for full, alone in zip(fulls, bares, strict=True))
    table.bars.insert(0, Bar("server CPU of a unique text, times the bare forward's", ratio, 1.4))
    table.notes.append(
        f"bare forward, compiled, batches of {setting.rows}: "
        + ", ".join(f"{1e3 * each:.2f}" for each in bares)
        + f" ms of CPU a text before each closed loop. Batches that ran eagerly in the closed loops: {eager:.0f}."
    )
    yield table


def repeated(bench: Bench, *options: str) -> Iterator[Table]:
    """Zipf-distributed texts, head-only adapters of 1,000 tenants, beside an endpoint that does nothing."""
    setting = bench.setting
    known = bench.texts.unique(setting.repeated_texts, setting.text_tokens)
    drawn = bench.bodies("zipf", "head", [[text] for text in bench.texts.zipf(known, 100_000)])
    everything = bench.everything("head", known)
    table = Table(
        f"Texts of {setting.text_tokens} tokens that come back (Zipf 1.1 over {setting.repeated_texts:,}), "
        f"{setting.resident:,} tenants, head-only",
        COLUMNS,
    )
    with bench.serve(*options) as server:
        sample = ask(server, drawn)
        end = time.monotonic() + _WARM_SECONDS
        while server.metric("cache_entries") < len(known) and time.monotonic() < end:
            bench.closed(server, everything, 8, 5)
        bench.closed(server, drawn, setting.connections, 3)
        full = bench.closed(server, drawn, setting.connections)
        opened = {share: bench.open(server, drawn, share * full.rate) for share in (0.5, 0.8)}
    with empty_endpoint(sample) as nothing:
        limit = bench.closed(nothing, drawn, setting.connections)
    table.lines = {" ".join(["closed loop", *options]): full.line(), "an endpoint that does nothing": limit.line()}
    table.lines |= {f"open loop at {share:.0%}": load.line() for share, load in opened.items()}
    table.bars = [
        Bar("repeated texts, answers/s", full.rate, 10_000, at_most=False),
        Bar("repeated texts, share of the empty endpoint's answers/s", full.rate / limit.rate, 0.8, at_most=False),
        Bar("repeated texts, p99 ms", full.p99 * 1e3, 50),
    ]
    table.notes.append("Either of the first two suffices. The load generator shares the cores.")
    yield table


def unlogged(bench: Bench) -> Iterator[Table]:
    """The same without access lines."""
    yield from repeated(bench, "--no-log")


def large(bench: Bench) -> Iterator[Table]:
    """Many texts in a request."""
    setting = bench.setting
    many = setting.request_texts
    table = Table(f"{many} unique texts in a request, {setting.resident:,} tenants, LoRA", COLUMNS)
    with bench.serve() as server:
        bench.warm(server, "lora")
        bodies = bench.unique("large", setting.seconds, many)
        load = bench.closed(server, bodies, 8)
        table.lines[f"closed loop, {many} texts"] = load.line(many)
    yield table


def ask(server: Server, bodies: Path) -> str:
    """One answer, as an example of its size."""
    import httpx

    with bodies.open() as lines:
        body = lines.readline()
    return httpx.post(f"{server.url}/v1/classify", content=body, headers={"Content-Type": "application/json"}).text


SECTIONS: dict[str, Callable[[Bench], Iterator[Table]]] = {
    "cpu": cpu,
    "repeated": repeated,
    "unlogged": unlogged,
    "large": large,
}


def run(setting: Setting, sections: Sequence[str] = ("cpu", "repeated", "large")) -> Iterator[Table]:
    """All tables, or those of some sections."""
    load_generator(setting)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(setting, Path(folder))
        for name in sections:
            yield from SECTIONS[name](bench)


def main() -> None:
    """Run sections and print their tables."""
    from benchmarks import machine

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.http", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="section", choices=[*SECTIONS, []], help=", ".join(SECTIONS))
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    options = parser.parse_args()
    print(machine.describe())
    setting = replace(Setting(), seconds=options.seconds)
    for table in run(setting, options.sections) if options.sections else run(setting):
        print(f"{table}\n", flush=True)


if __name__ == "__main__":
    main()
