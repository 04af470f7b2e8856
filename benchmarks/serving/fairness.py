"""h. A quiet tenant beside one that sends a hundred times as much, and equals with a backlog.

Ours beside a scheduler that serves in order of arrival, in the same engine and the same run.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.serving.engine_load import Load, Outcome, send
from benchmarks.serving.fifo import Fifo, Timed
from benchmarks.serving.made import lora
from benchmarks.serving.registries import open_backbone
from benchmarks.serving.report import Bar, Table
from benchmarks.serving.setting import Setting
from benchmarks.serving.texts import Texts
from benchmarks.serving.timing import Spread, percentile
from graftwork.backbones.backbone import Backbone
from graftwork.serving.compiled.forward import CompiledForward, Compiler
from graftwork.serving.engine import Engine, EngineLimits

QUIET, FLOOD = "quiet", "flood"
TIMES = 100
EQUALS = 8
WARM_SECONDS = 3.0
ROUNDS = 3


@dataclass(frozen=True)
class Mix:
    """What the two tenants send.

    Attributes:
        title: in words.
        flood: tokens of the flood's texts, drawn for each.
        quiet: of the quiet tenant's.
        overload: the flood's rate, in what the engine computes when it has nothing else to do.
    """

    title: str
    flood: tuple[int, ...]
    quiet: tuple[int, ...]
    overload: float


MIXES = (
    Mix("texts of one length", (25,), (25,), 1.25),
    Mix("texts of many lengths, twice what is computed", (8, 12, 20, 25, 30, 45, 60, 110, 200), (10, 25, 90), 2.0),
)


def run(setting: Setting) -> Iterator[Table]:
    """A table for each mix of lengths, and one of equals."""
    with _bench(setting) as bench:
        for mix in MIXES:
            yield _beside_a_flood(bench, mix)
        yield _equals(bench)


@dataclass
class _Bench:
    """Engines over one backbone and some adapters, one of them for each tenant."""

    setting: Setting
    backbone: Backbone
    texts: Texts
    compiler: Compiler
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    @contextmanager
    def engine(self, scheduler: type[Timed]) -> Iterator[tuple[Callable[[str, str], Future[Any]], Timed]]:
        """How to ask a new engine with this scheduler, once its network is compiled."""
        artifacts = {artifact.digest: artifact for artifact in (lora(self.backbone, seed) for seed in range(EQUALS))}
        digests = list(artifacts)
        names = [QUIET, FLOOD]
        with mock.patch("graftwork.serving.engine.Scheduler", scheduler):
            engine = Engine(
                lambda _: self.backbone,
                artifacts.__getitem__,
                EngineLimits(),
                make_forward=lambda backbone, places, meter: CompiledForward(
                    backbone, places, self.setting.model, self.compiler, meter
                ),
            )
        timed = engine._scheduler
        assert isinstance(timed, Timed)

        def ask(tenant: str, text: str) -> Future[Any]:
            number = names.index(tenant) if tenant in names else int(tenant)
            return engine.classify(tenant, self.backbone.fingerprint, digests[number], [text])

        engine.start()
        try:
            for number in range(EQUALS):
                ask(str(number), f"warm {number}").result()
            self.compiler.settle()
            for rows in (1, 8, 64, 64, 64):
                for future in [ask("0", text) for text in self.draw(rows, (25,))]:
                    future.result()
            timed.steps.clear()
            yield ask, timed
        finally:
            engine.close(drain=False)

    def draw(self, count: int, lengths: tuple[int, ...]) -> list[str]:
        """Texts never sent before, of lengths drawn from these."""
        counts = self.random.multinomial(count, [1 / len(lengths)] * len(lengths))
        texts = [text for tokens, many in zip(lengths, counts, strict=True) for text in self.texts.unique(many, tokens)]
        return [texts[place] for place in self.random.permutation(count)]

    def load(self, rate: float, seconds: float, lengths: tuple[int, ...]) -> Load:
        """What a tenant sends at this rate."""
        return Load(rate, self.draw(int(rate * seconds * 1.5) + 100, lengths))


@contextmanager
def _bench(setting: Setting) -> Iterator[_Bench]:
    backbone = open_backbone(setting)
    compiler = Compiler((setting.store / "compiled").absolute())
    # As `graft serve` does.
    thresholds = gc.get_threshold()
    gc.set_threshold(*thresholds[:2], 50)
    try:
        yield _Bench(setting, backbone, Texts(setting.corpus, backbone.encode), compiler)
    finally:
        compiler.close()
        gc.unfreeze()
        gc.set_threshold(*thresholds)


def _settle_memory() -> None:
    """What is there stays, as `graft serve` says when it is ready.

    Otherwise a collection looks through all that was made for the run, and stops every thread meanwhile.
    """
    gc.collect()
    gc.freeze()


def _beside_a_flood(bench: _Bench, mix: Mix) -> Table:
    seconds = bench.setting.seconds
    rate = mix.overload * _capacity(bench, mix.flood)
    rates = {FLOOD: rate, QUIET: rate / TIMES}
    lengths = {FLOOD: mix.flood, QUIET: mix.quiet}
    kinds: dict[str, tuple[type[Timed], tuple[str, ...]]] = {
        "the quiet tenant alone": (Timed, (QUIET,)),
        "ours": (Timed, (QUIET, FLOOD)),
        "first come, first served": (Fifo, (QUIET, FLOOD)),
    }
    found: dict[str, list[tuple[Outcome, Timed]]] = {kind: [] for kind in kinds}
    for number in range(ROUNDS):
        for kind, (scheduler, tenants) in kinds.items():
            loads = {name: bench.load(rates[name], WARM_SECONDS + seconds, lengths[name]) for name in tenants}
            with bench.engine(scheduler) as (ask, timed):
                _settle_memory()
                outcome = send(ask, loads, warm=WARM_SECONDS, seconds=seconds, seed=number)
            found[kind].append((outcome, timed))
    table = Table(
        f"{mix.title}: {rates[QUIET]:.1f} texts/s beside {rates[FLOOD]:.0f}, {ROUNDS} rounds of {seconds:.0f} s",
        [
            "quiet p50, ms",
            "p99, ms",
            "worst, ms",
            "its 429s",
            "texts/s",
            "middle half",
            "rows a step",
            "step, ms",
            "others, cores",
        ],
    )
    for kind, runs in found.items():
        table.lines[kind] = _line(runs, seconds)
    alone, ours = (_p99(found[kind]) for kind in ("the quiet tenant alone", "ours"))
    batch = _full_step(found["ours"])
    throughput = [
        mine.answered.total() / other.answered.total()
        for (mine, _), (other, _) in zip(found["ours"], found["first come, first served"], strict=True)
    ]
    table.bars = [
        Bar(
            f"bar 7: p99 of the quiet tenant, ms, alone {alone * 1e3:.1f}, one batch {batch * 1e3:.1f}; {mix.title}",
            ours * 1e3,
            max(1.5 * alone, alone + batch) * 1e3,
        ),
        Bar(f"bar 7: its 429s; {mix.title}", float(sum(run.refused[QUIET] for run, _ in found["ours"])), 0.0),
        Bar(
            f"bar 7: texts/s beside first come, first served; {mix.title}",
            float(np.median(throughput)),
            0.95,
            at_most=False,
        ),
    ]
    late = max(run.late for runs in found.values() for run, _ in runs)
    table.notes = [
        f"one thread of the engine's process sends, at most {late * 1e3:.0f} ms late; latencies count from the "
        "time that a request was due",
        "one batch: the median step of ours with nine tenths of the most padded tokens, which are what fills a batch; "
        "a step: batch chosen to answers given",
        "others: what other processes kept busy in the worst round; above a few hundredths the figures say little",
    ]
    return table


def _equals(bench: _Bench) -> Table:
    """Equals that all send more than their share, at very different rates."""
    lengths = MIXES[0].flood
    share = _capacity(bench, lengths) / EQUALS
    seconds = bench.setting.seconds
    table = Table(
        f"{EQUALS} tenants with a backlog, the first sending 1.5 times its share, each other half a share more",
        ["Jain's index", "least texts/s", "most texts/s"],
    )
    for kind, scheduler in (("ours", Timed), ("first come, first served", Fifo)):
        loads = {
            str(number): bench.load((1.5 + number / 2) * share, WARM_SECONDS + seconds, lengths)
            for number in range(EQUALS)
        }
        with bench.engine(scheduler) as (ask, _):
            outcome = send(ask, loads, warm=WARM_SECONDS, seconds=seconds)
        got = [outcome.answered[tenant] / seconds for tenant in loads]
        jain = sum(got) ** 2 / (len(got) * sum(each * each for each in got))
        table.lines[kind] = (jain, min(got), max(got))
        if kind == "ours":
            table.bars = [Bar("bar 7: Jain's index among backlogged equals", jain, 0.95, at_most=False)]
    return table


def _capacity(bench: _Bench, lengths: tuple[int, ...]) -> float:
    """Texts a second that the engine computes when there are always more."""
    texts = bench.draw(1000, lengths)
    with bench.engine(Timed) as (ask, _):
        start = time.perf_counter()
        for future in [ask(FLOOD, text) for text in texts]:
            future.result()
        return len(texts) / (time.perf_counter() - start)


def _line(runs: list[tuple[Outcome, Timed]], seconds: float) -> tuple[Any, ...]:
    quiet = [latency * 1e3 for outcome, _ in runs for latency in outcome.seconds[QUIET]] or [float("nan")]
    rates = Spread.of([outcome.answered.total() / seconds for outcome, _ in runs])
    steps = [step for _, timed in runs for step in timed.steps]
    return (
        percentile(quiet, 50),
        percentile(quiet, 99),
        max(quiet),
        sum(outcome.refused[QUIET] for outcome, _ in runs),
        rates.median,
        f"{rates.low:.0f} to {rates.high:.0f}",
        float(np.mean([step.rows for step in steps])),
        float(np.median([step.seconds for step in steps])) * 1e3,
        max(outcome.others for outcome, _ in runs),
    )


def _p99(runs: list[tuple[Outcome, Timed]]) -> float:
    return percentile([latency for outcome, _ in runs for latency in outcome.seconds[QUIET]], 99)


def _full_step(runs: list[tuple[Outcome, Timed]]) -> float:
    steps = [step for _, timed in runs for step in timed.steps]
    most = max(step.tokens for step in steps)
    return float(np.median([step.seconds for step in steps if step.tokens >= 0.9 * most]))


def main() -> None:
    """Run this benchmark alone."""
    import os
    import sys

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from benchmarks.serving.__main__ import main as all_benchmarks

    sys.argv[1:1] = ["fairness"]
    all_benchmarks()


if __name__ == "__main__":
    main()
