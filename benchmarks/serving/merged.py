"""e. A model for each tenant, the adapter merged into the weights, beside ours: time and memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.serving.bare_forward import random_batch
from benchmarks.serving.made import lora
from benchmarks.serving.ours import steps_over
from benchmarks.serving.peft_models import peft_model
from benchmarks.serving.registries import open_backbone
from benchmarks.serving.report import Table, timed_table
from benchmarks.serving.setting import Setting
from benchmarks.serving.texts import Texts
from benchmarks.serving.timing import clocked, interleaved


def run(setting: Setting) -> Iterator[Table]:
    """A table of time and one of memory."""
    backbone = open_backbone(setting)
    batch = random_batch(backbone, setting.rows, setting.tokens)
    merged = peft_model(backbone, 1).merge_and_unload()
    models = [copy.deepcopy(merged) for _ in range(setting.merged)]
    rows = [slice(number, None, len(models)) for number in range(len(models))]

    def one_by_one() -> None:
        for model, own in zip(models, rows, strict=True):
            model(input_ids=batch.input_ids[own], attention_mask=batch.attention_mask[own])

    texts = Texts(setting.corpus, backbone.encode)
    with steps_over(setting, backbone, texts, setting.merged) as (engine, digests):
        names = [digests[row % len(digests)] for row in range(setting.rows)]
        ours, theirs = f"ours, {setting.merged} adapters", f"{setting.merged} merged models"
        with torch.inference_mode():
            timings = interleaved([clocked(theirs, one_by_one), engine.batch(ours, names)], setting.rounds)
    what = f"{setting.rows} rows x {setting.tokens} tokens of {setting.merged} tenants, {backbone.dtype_name}"
    yield timed_table(f"one merged model a tenant: {what}", timings, {"x ours": f"{ours}, whole step"})
    a_model, an_adapter = _nbytes(models[0]), lora(backbone, 0).size_bytes
    table = Table("one merged model a tenant: memory of the weights", ["MiB a tenant", "GiB for 1,000 tenants"])
    table.lines["merged models"] = (a_model / 2**20, a_model * 1000 / 2**30)
    table.lines["ours: one backbone and adapters"] = (an_adapter / 2**20, (a_model + an_adapter * 1000) / 2**30)
    table.notes = ["computed from the sizes of the tensors; what a whole server holds is measured under memory"]
    yield table


def _nbytes(model: Any) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
