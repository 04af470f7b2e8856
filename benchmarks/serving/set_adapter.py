"""d. PEFT's switching: one adapter after the other, `set_adapter` and a forward for its rows, beside ours."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.serving import peers
from benchmarks.serving.bare_forward import random_batch
from benchmarks.serving.ours import steps_over
from benchmarks.serving.peft_models import peft_model
from benchmarks.serving.products import products_alone
from benchmarks.serving.registries import open_backbone
from benchmarks.serving.report import Bar, Table, timed_table
from benchmarks.serving.setting import Setting
from benchmarks.serving.texts import Texts
from benchmarks.serving.timing import Candidate, clocked, interleaved

PRODUCTS = "matrix products alone"
OPENVINO = "OpenVINO, bare forward"


def run(setting: Setting) -> Iterator[Table]:
    """A table for each dtype."""
    for dtype in setting.dtypes:
        yield _table(setting, dtype)


def _table(setting: Setting, asked: str) -> Table:
    backbone = open_backbone(setting, asked)
    dtype = backbone.dtype_name
    batch = random_batch(backbone, setting.rows, setting.tokens)
    most = max(setting.distinct)
    model = peft_model(backbone, most)

    def switching(count: int) -> Candidate:
        def call() -> None:
            for number in range(count):
                model.set_adapter(f"a{number}")
                rows = slice(number, None, count)
                model(input_ids=batch.input_ids[rows], attention_mask=batch.attention_mask[rows])

        return clocked(f"PEFT set_adapter, {count}", call)

    texts = Texts(setting.corpus, backbone.encode)
    with steps_over(setting, backbone, texts, most) as (engine, digests):
        candidates = [switching(count) for count in setting.distinct]
        candidates.append(engine.batch(f"ours, {most}", [digests[row % most] for row in range(setting.rows)]))
        candidates.append(clocked(PRODUCTS, products_alone(backbone, setting.rows * setting.tokens)))
        if peers.installed("openvino"):
            candidates.append(clocked(OPENVINO, peers.openvino(setting.model, dtype, batch)))
        with torch.inference_mode():
            timings = interleaved(candidates, setting.rounds)
    ours, theirs = f"ours, {most}, whole step", f"PEFT set_adapter, {most}"
    title = f"switching among adapters for {setting.rows} rows x {setting.tokens} tokens, {dtype}"
    table = timed_table(title, timings, {f"x ours, {most}": ours})
    claim = f"bar 2: times as fast as PEFT's set_adapter at {most} distinct, {dtype}"
    table.bars = [Bar(claim, timings.ratio(theirs, ours), 10.0, at_most=False)]
    table.notes = [
        f"{PRODUCTS}: those of the linear layers for all tokens, nothing else. What computes them in {dtype} here "
        f"can be at most {timings.ratio(theirs, PRODUCTS):.1f} times as fast as switching among {most}."
    ]
    if OPENVINO in timings.rounds:
        table.notes.append(
            f"{OPENVINO}: without any adapter, it is {timings.ratio(theirs, OPENVINO):.1f} times as fast as switching."
        )
    return table
