"""c. PEFT's mixed batches, `adapter_names`, beside ours."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.serving.bare_forward import random_batch
from benchmarks.serving.ours import steps_over
from benchmarks.serving.peft_models import peft_model
from benchmarks.serving.registries import open_backbone
from benchmarks.serving.report import Bar, Table, timed_table
from benchmarks.serving.setting import Setting
from benchmarks.serving.texts import Texts
from benchmarks.serving.timing import Candidate, clocked, interleaved

# What was promised of ours at the most distinct adapters, by dtype.
BOUNDS = {"float32": 1.2, "bfloat16": 2.5}


def run(setting: Setting) -> Iterator[Table]:
    """A table for each dtype."""
    for dtype in setting.dtypes:
        yield _table(setting, dtype)


def _table(setting: Setting, asked: str) -> Table:
    backbone = open_backbone(setting, asked)
    dtype = backbone.dtype_name
    batch = random_batch(backbone, setting.rows, setting.tokens)
    model = peft_model(backbone, max(setting.distinct))
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}

    def peft_candidate(count: int) -> Candidate:
        names = [f"a{row % count}" for row in range(setting.rows)]
        return clocked(f"PEFT adapter_names, {count}", lambda: model(**inputs, adapter_names=names))

    texts = Texts(setting.corpus, backbone.encode)
    with steps_over(setting, backbone, texts, max(setting.distinct)) as (engine, digests):
        candidates = [peft_candidate(count) for count in setting.distinct]
        candidates += [
            engine.batch(f"ours, {count}", [digests[row % count] for row in range(setting.rows)])
            for count in setting.distinct
        ]
        with torch.inference_mode():
            timings = interleaved(candidates, setting.rounds)
    most = max(setting.distinct)
    ours, theirs = f"ours, {most}, whole step", f"PEFT adapter_names, {most}"
    title = f"distinct adapters in a batch of {setting.rows} rows x {setting.tokens} tokens, {dtype}"
    table = timed_table(title, timings, {f"x ours, {most}": ours})
    claim = f"bar 2: times as fast as PEFT's adapter_names at {most} distinct, {dtype}"
    table.bars = [Bar(claim, timings.ratio(theirs, ours), BOUNDS[dtype], at_most=False)]
    table.notes = ["ours: with pooling and heads; PEFT: the network alone, which has no heads here"]
    return table
