"""b. Batches of many adapters: how much the number of distinct, and of registered, adapters costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice

import torch

from benchmarks.serving import peers
from benchmarks.serving.bare_forward import EAGER, random_batch
from benchmarks.serving.ours import Steps, bare_forwards, steps
from benchmarks.serving.registries import open_backbone, open_registry, registry_of
from benchmarks.serving.report import Bar, Table, timed_table
from benchmarks.serving.setting import Setting
from benchmarks.serving.texts import Texts
from benchmarks.serving.timing import Candidate, Timings, clocked, interleaved
from graftwork.wiring import Services

FLAT = 1.05


def run(setting: Setting) -> Iterator[Table]:
    """A table of distinct adapters, with as many registered as are resident, and one of registered adapters."""
    yield _distinct(setting)
    yield _registered(setting)


def _distinct(setting: Setting) -> Table:
    backbone = open_backbone(setting)
    texts = Texts(setting.corpus, backbone.encode)
    batch = random_batch(backbone, setting.rows, setting.tokens)
    eager = peers.transformers_eager(setting.model, backbone.dtype_name, batch)
    bare = bare_forwards(setting, backbone, batch)
    with ExitStack() as open_now:
        home = registry_of(setting, setting.resident, backbone)
        services = open_now.enter_context(open_registry(setting, home))
        engine = open_now.enter_context(steps(setting, backbone, services.catalog.read, texts))
        loras, heads = _digests(services, "lora"), _digests(services, "head")
        engine.warm(loras)
        engine.warm(heads[: setting.rows])
        candidates = [clocked(EAGER, eager), *(clocked(f"{name}, bare forward", call) for name, call in bare.items())]
        candidates.append(engine.bare("vectors of the base", setting.rows))
        candidates.append(engine.batch(f"{setting.rows} head-only adapters", heads[: setting.rows]))
        candidates += [_batch(engine, loras, count, setting.rows) for count in setting.distinct]
        with torch.inference_mode():
            timings = interleaved(candidates, setting.rounds)
    fastest = min((f"{name}, bare forward" for name in bare), key=lambda name: timings.spread(name).median)
    title = f"batches of {setting.rows} rows x {setting.tokens} tokens, {setting.resident:,} adapters resident, "
    table = timed_table(title + backbone.dtype_name, timings, {"x bare": fastest, "x transformers": EAGER})
    last = _name(setting.distinct[-1])
    whole = f"{last}, whole step"
    table.bars = [
        Bar(f"bar 1: {last} beside our bare forward", timings.ratio(last, fastest), 1.12),
        Bar(f"bar 1: {whole}, beside our bare forward", timings.ratio(whole, fastest), 1.12),
        Bar(f"bar 1: {last} beside transformers' bare forward", timings.ratio(last, EAGER), 1.0),
        Bar(
            "bar 1: the slowest of the numbers of distinct adapters beside the fastest",
            _unevenness(timings, [_name(count) for count in setting.distinct]),
            FLAT,
        ),
    ]
    table.notes = ["whole step: with the choice of the batch, slots and answers; without it the computing alone"]
    return table


def _registered(setting: Setting) -> Table:
    """The same batch over registries of different sizes, one engine over each, all in one run."""
    backbone = open_backbone(setting)
    texts = Texts(setting.corpus, backbone.encode, seed=1)
    names = []
    candidates: list[Candidate] = []
    with ExitStack() as open_now:
        for count in setting.registered:
            home = registry_of(setting, count, backbone)
            services = open_now.enter_context(open_registry(setting, home))
            engine = open_now.enter_context(steps(setting, backbone, services.catalog.read, texts))
            loras = _digests(services, "lora")
            # Spread over the whole registry; as many as fit are resident.
            used = loras[:: max(1, len(loras) // setting.resident)][: setting.resident]
            engine.warm(used)
            names.append(f"{count:,} registered, {len(used):,} resident")
            candidates.append(engine.batch(names[-1], _spread(used, setting.rows)))
        with torch.inference_mode():
            timings = interleaved(candidates, setting.rounds)
    title = f"batches of {setting.rows} distinct adapters, {setting.rows} rows x {setting.tokens} tokens, "
    table = timed_table(title + backbone.dtype_name, timings, {"x the first": names[0]})
    for suffix in ("", ", whole step"):
        claim = f"bar 1: the slowest of the registries beside the fastest{suffix}"
        table.bars.append(Bar(claim, _unevenness(timings, [name + suffix for name in names]), FLAT))
    return table


def _digests(services: Services, name: str) -> list[str]:
    """Digests of the tenants' adapters of a name, by tenant."""
    return [version.digest for version in services.catalog.list() if version.name == name]


def _batch(engine: Steps, loras: list[str], distinct: int, rows: int) -> Candidate:
    chosen = _spread(loras, distinct)
    return engine.batch(_name(distinct), [chosen[row % distinct] for row in range(rows)])


def _name(distinct: int) -> str:
    return f"{distinct} LoRA adapter{'s' if distinct > 1 else ''}"


def _spread(adapters: list[str], count: int) -> list[str]:
    """So many of them, evenly from the first to the last."""
    return list(islice(adapters[:: max(1, len(adapters) // count)], count))


def _unevenness(timings: Timings, names: list[str]) -> float:
    """Median of the slowest over median of the fastest."""
    medians = [timings.spread(name).median for name in names]
    return max(medians) / min(medians)
