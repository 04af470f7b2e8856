"""Rows of full and partial fine-tunes, which run on weights of their own, beside the bare forward of as many rows."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.serving.bare_forward import random_batch
from benchmarks.serving.registries import open_backbone
from benchmarks.serving.report import Table, timed_table
from benchmarks.serving.setting import Setting
from benchmarks.serving.timing import Candidate, interleaved
from graftwork.adaptation import STRATEGIES
from graftwork.backbones.backbone import Backbone, TokenBatch
from graftwork.registry.artifact import DELTA, DELTA_CONFIG
from graftwork.serving.weights import WeightsDelta, read_weights_delta

TENANTS = 4
BARE = "bare forward"
_WORDS = 5_000  # that occur in a thousand texts, or about so many
_MEGABYTE = 2**20


def run(setting: Setting) -> Iterator[Table]:
    """A table of times, and one of what it takes of memory."""
    backbone = open_backbone(setting)
    batch = random_batch(backbone, setting.rows, setting.tokens)
    parts = _parts(batch)
    calls: dict[str, Callable[[], Any]] = {
        BARE: lambda: backbone.forward(batch),
        f"bare forwards of {TENANTS} parts": lambda: [backbone.forward(part) for part in parts],
    }
    kept: dict[str, Sequence[WeightsDelta]] = {}
    for strategy in ("partial", "full"):
        deltas = [_delta(backbone, strategy, seed) for seed in range(TENANTS)]
        kept[strategy] = deltas
        calls[f"1 tenant, {strategy}"] = _answering(backbone, [(batch, deltas[0])])
        calls[f"{TENANTS} tenants, {strategy}"] = _answering(backbone, list(zip(parts, deltas, strict=True)))
    with torch.inference_mode():
        timings = interleaved([_processor_clocked(name, call) for name, call in calls.items()], setting.rounds)
        yield timed_table(
            f"processor time, {backbone.dtype_name}, {setting.rows} rows x {setting.tokens} tokens in all",
            timings,
            {"x bare": BARE, "x bare in parts": f"bare forwards of {TENANTS} parts"},
        )
        yield _memory(backbone, calls, kept)


def _processor_clocked(name: str, call: Callable[[], object]) -> Candidate:
    """Timed by the processor's clock: what other programs take of the machine does not count."""

    def timed() -> dict[str, float]:
        start = time.process_time()
        call()
        return {name: time.process_time() - start}

    return timed


def _answering(backbone: Backbone, groups: Sequence[tuple[TokenBatch, WeightsDelta]]) -> Callable[[], list[Tensor]]:
    return lambda: [delta.hidden(backbone, batch, [delta] * len(batch.input_ids)) for batch, delta in groups]


def _parts(batch: TokenBatch) -> list[TokenBatch]:
    rows = zip(batch.input_ids.chunk(TENANTS), batch.attention_mask.chunk(TENANTS), strict=True)
    return [TokenBatch(ids, mask) for ids, mask in rows]


def _delta(backbone: Backbone, strategy: str, seed: int) -> WeightsDelta:
    """What nobody trained: random differences in every tuned layer, and of the words that might have occurred."""
    found = STRATEGIES[strategy]
    generator = torch.Generator().manual_seed(seed)
    words = len(backbone.model.get_input_embeddings().weight)  # type: ignore[operator]
    with found.attach(backbone, found.settings_type(), seed=seed) as attachment, torch.no_grad():
        for parameter in attachment.parameters():
            difference = torch.randn(parameter.shape, generator=generator) * 1e-4
            if len(parameter) == words:
                difference[torch.randperm(words, generator=generator)[_WORDS:]] = 0.0
            parameter.add_(difference)
        files = attachment.delta().files
    return read_weights_delta(files[DELTA_CONFIG], files[DELTA], backbone)


def _memory(backbone: Backbone, calls: dict[str, Callable[[], Any]], kept: dict[str, Sequence[WeightsDelta]]) -> Table:
    base = sum(parameter.nbytes for parameter in backbone.model.parameters())
    table = Table("memory", ["most at once, MiB", "kept a tenant, MiB", "of the base"])
    for name, call in calls.items():
        deltas = kept.get(name.rpartition(", ")[2])
        own = deltas[0].nbytes if deltas else None
        share = None if own is None else f"{own / base:.2%}"
        table.lines[name] = (_peak(call), None if own is None else own / _MEGABYTE, share)
    table.notes = [
        f"the base has {base / _MEGABYTE:.1f} MiB, a layer {_layer_bytes(backbone) / _MEGABYTE:.1f} MiB",
        "most at once: tensors made by one call, activations and results among them",
    ]
    return table


def _layer_bytes(backbone: Backbone) -> int:
    return sum(parameter.nbytes for parameter in backbone.layers[0].parameters())


def _peak(call: Callable[[], Any]) -> float:
    """Most MiB of tensors alive at once that the call made, by PyTorch's own count of what it allocates and frees."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    assert profile.profiler is not None
    assert profile.profiler.kineto_results is not None
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return float(max(alive)) / _MEGABYTE
