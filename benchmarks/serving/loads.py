"""g. How long an adapter takes to answer: from the local blob store, from host memory, and however many are loaded."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle

from benchmarks.serving.registries import open_backbone, open_registry, registry_of
from benchmarks.serving.report import Bar, Table
from benchmarks.serving.setting import Setting
from benchmarks.serving.texts import Texts
from benchmarks.serving.timing import percentile
from graftwork.backbones.backbone import Backbone
from graftwork.registry.artifact import Artifact
from graftwork.serving.engine import Engine, EngineLimits

COLD, HOST, RESIDENT = "from the blob store", "from host memory", "in slots"
_COLUMNS = ["request, p50 ms", "p99", "load, p50 ms", "p99"]
_BARS = {COLD: 10.0, HOST: 2.0}
_AT_ONCE = 64  # loads asked for together before anything is timed
_IN_FLIGHT = 4  # requests of the traffic beside
_NOTES = [
    "A request is one text of a tenant, from `Engine.classify` to its result, network included.",
    "Adapters were never read by this process before; the operating system may hold their files in its page cache.",
]


def run(setting: Setting) -> Iterator[Table]:
    """A table of an engine that does nothing else, and one beside traffic of other tenants."""
    backbone = open_backbone(setting)
    home = registry_of(setting, setting.registered[-1], backbone)
    texts = Texts(setting.corpus, backbone.encode)
    with open_registry(setting, home) as services:
        digests = [version.digest for version in services.catalog.list() if version.name == "lora"]
        bench = _Bench(setting, backbone, services.catalog.read, digests, texts)
        yield bench.table(beside=False)
        yield bench.table(beside=True)


class _Bench:
    def __init__(
        self,
        setting: Setting,
        backbone: Backbone,
        read: Callable[[str], Artifact],
        digests: Sequence[str],
        texts: Texts,
    ) -> None:
        self._setting = setting
        self._backbone = backbone
        self._read = read
        self._digests = digests
        self._texts = texts

    def table(self, *, beside: bool) -> Table:
        """Loads at each number of adapters in slots."""
        what = "beside traffic of other tenants" if beside else "on an idle engine"
        table = Table(f"adapters that begin to answer, {what}, {self._setting.loads} of each kind", _COLUMNS)
        how = "the request" if beside else "the request less what tokenising, the network and the head took of it"
        table.notes = [*_NOTES, f"A load is {how}, beyond what the median request to an adapter in slots took."]
        medians: dict[str, list[float]] = {COLD: [], HOST: []}
        for number in self._setting.residents:
            found = self._measure(number, beside=beside)
            took = {
                kind: [request - (0 if beside else computing) for request, computing in each]
                for kind, each in found.items()
            }
            middle = statistics.median(took[RESIDENT])
            for kind, requests in found.items():
                ms = [1e3 * request for request, _ in requests]
                loads = [1e3 * (each - middle) for each in took[kind]]
                line = (percentile(ms, 50), percentile(ms, 99), percentile(loads, 50), percentile(loads, 99))
                table.lines[f"{number:,} loaded, {kind}"] = line
                if kind in medians:
                    medians[kind].append(line[2])
                if kind in _BARS and not beside:
                    claim = f"bar 6: {kind}, {number:,} loaded, p99 of the load in ms"
                    table.bars.append(Bar(claim, line[3], _BARS[kind]))
        for kind, middles in medians.items():
            flat = f"{kind}: p50 of the load with {self._setting.residents[-1]:,} loaded"
            table.notes.append(
                f"{flat} is {middles[-1] / middles[0]:.2f} times that with {self._setting.residents[0]}."
            )
        return table

    def _measure(self, number: int, *, beside: bool) -> dict[str, list[tuple[float, float]]]:
        """Requests of each kind, in turn, with so many adapters in slots all the time: see `_ask`."""
        loads = self._setting.loads
        host, slots, cold = (
            self._digests[:loads],
            self._digests[loads : loads + number],
            self._digests[loads + number : 2 * loads + number],
        )
        limits = EngineLimits(slots=number, slot_bytes=4 << 30, host_bytes=8 << 30, cache_bytes=0)
        engine = Engine(lambda _: self._backbone, self._read, limits)
        engine.start()
        found: dict[str, list[tuple[float, float]]] = {COLD: [], HOST: [], RESIDENT: []}
        try:
            for digests in (host, slots):
                self._load(engine, digests)
            # Those in slots that are asked again and again stay there; the others leave for those that come.
            often = slots[-2:]
            with self._traffic(engine, often[0]) if beside else _nothing():
                for from_host, from_store in zip(host, cold, strict=True):
                    found[HOST].append(self._ask(engine, from_host))
                    found[RESIDENT].append(self._ask(engine, often[1]))
                    found[COLD].append(self._ask(engine, from_store))
        finally:
            engine.close()
        return found

    def _load(self, engine: Engine, digests: Sequence[str]) -> None:
        (text,) = self._texts.unique(1, self._setting.text_tokens)
        for begin in range(0, len(digests), _AT_ONCE):
            futures = [
                engine.classify(digest, self._backbone.fingerprint, digest, [text])
                for digest in digests[begin : begin + _AT_ONCE]
            ]
            for future in futures:
                future.result()

    def _ask(self, engine: Engine, digest: str) -> tuple[float, float]:
        """Seconds of a request, and those that the engine spent on computing meanwhile."""
        (text,) = self._texts.unique(1, self._setting.text_tokens)
        before = _computing(engine)
        start = time.perf_counter()
        engine.classify(digest, self._backbone.fingerprint, digest, [text]).result()
        return time.perf_counter() - start, _computing(engine) - before

    @contextmanager
    def _traffic(self, engine: Engine, digest: str) -> Iterator[None]:
        """Another tenant's requests, a few in flight all the time."""
        stop = threading.Event()
        texts = cycle(self._texts.unique(2_000, self._setting.text_tokens))

        def send() -> None:
            waiting = [
                engine.classify("other", self._backbone.fingerprint, digest, [next(texts)]) for _ in range(_IN_FLIGHT)
            ]
            while not stop.is_set():
                waiting.pop(0).result()
                waiting.append(engine.classify("other", self._backbone.fingerprint, digest, [next(texts)]))

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _computing(engine: Engine) -> float:
    return sum(phase.total for phase in engine.stats().step_seconds.values())


@contextmanager
def _nothing() -> Iterator[None]:
    yield
