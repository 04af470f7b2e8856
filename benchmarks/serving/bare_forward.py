"""a. The bare forward of the backbone, without any adapter: ours beside everybody's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.serving import peers
from benchmarks.serving.ours import bare_forwards
from benchmarks.serving.registries import open_backbone
from benchmarks.serving.report import Bar, Table, timed_table
from benchmarks.serving.setting import Setting
from benchmarks.serving.timing import clocked, interleaved
from graftwork.backbones.backbone import Backbone, TokenBatch

EAGER = "transformers, eager"
OPENVINO = "OpenVINO"


def run(setting: Setting) -> Iterator[Table]:
    """A table for each dtype."""
    for dtype in setting.dtypes:
        yield _table(setting, dtype)


def random_batch(backbone: Backbone, rows: int, tokens: int) -> TokenBatch:
    """Token ids without padding, drawn from the whole vocabulary."""
    vocabulary = backbone.model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    generator = torch.Generator().manual_seed(0)
    batch = backbone.collate(torch.randint(5, vocabulary, (rows, tokens), generator=generator).tolist())
    assert isinstance(batch, TokenBatch)
    return batch


def forwards(setting: Setting, backbone: Backbone, batch: TokenBatch) -> tuple[dict[str, peers.Call], list[str]]:
    """Every forward by name, and notes on those that are missing."""
    dtype, folder = backbone.dtype_name, setting.model
    calls: dict[str, peers.Call] = {EAGER: peers.transformers_eager(folder, dtype, batch)}
    calls |= bare_forwards(setting, backbone, batch)
    calls["torch.compile, freezing"] = peers.torch_compile(folder, dtype, batch)
    notes = []
    if peers.installed("openvino"):
        calls[OPENVINO] = peers.openvino(folder, dtype, batch)
    else:
        notes.append("OpenVINO is not installed: pip install -e '.[bench]'")
    if peers.installed("onnx", "onnxruntime"):
        if dtype == "float32":
            calls["ONNX Runtime"] = peers.onnx_runtime(folder, batch, setting.store / "onnx", int8=False)
        calls["ONNX Runtime, int8"] = peers.onnx_runtime(folder, batch, setting.store / "onnx", int8=True)
    else:
        notes.append("ONNX Runtime is not installed: pip install -e '.[bench]'")
    return calls, notes


def _table(setting: Setting, asked: str) -> Table:
    backbone = open_backbone(setting, asked)
    dtype = backbone.dtype_name
    batch = random_batch(backbone, setting.rows, setting.tokens)
    calls, notes = forwards(setting, backbone, batch)
    with torch.inference_mode():
        exact = peers.transformers_eager(setting.model, "float32", batch)()
        off = {name: _worst_difference(call(), exact) for name, call in calls.items()}
        timings = interleaved([clocked(name, call) for name, call in calls.items()], setting.rounds)
    table = timed_table(
        f"bare forward, {dtype}, {setting.rows} rows x {setting.tokens} tokens",
        timings,
        {"x transformers": EAGER, "x OpenVINO": OPENVINO},
    )
    table.columns = [*table.columns, "off by"]
    table.lines = {name: (*figures, off[name]) for name, figures in table.lines.items()}
    fastest = min((name for name in calls if name.startswith("ours")), key=lambda name: timings.spread(name).median)
    if OPENVINO in calls:
        claim = f"bar 1: our fastest bare forward ({fastest}) beside OpenVINO's, {dtype}"
        table.bars.append(Bar(claim, timings.ratio(fastest, OPENVINO), 1.10))
    table.notes = [
        *notes,
        "off by: greatest difference of a number of the last hidden state from transformers' float32",
    ]
    return table


def _worst_difference(hidden: Any, exact: torch.Tensor) -> float:
    found = hidden.float().numpy() if isinstance(hidden, torch.Tensor) else np.asarray(hidden, dtype=np.float32)
    return float(np.abs(found - exact.numpy()).max())
