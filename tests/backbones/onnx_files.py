"""ONNX graphs for tests: a tiny model's own, and graphs of a few nodes."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from transformers import AutoModel

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class _LastHiddenState(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> Any:
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        return self.model(**given).last_hidden_state


def save_graph(source: Path, folder: Path) -> Path:
    """Write a BERT's graph as model.onnx, and its tokenizer."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(source / name, folder / name)
    ids = torch.ones((2, 5), dtype=torch.int64)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _LastHiddenState(AutoModel.from_pretrained(source)).eval(),
            (ids, ids, ids),
            str(folder / "model.onnx"),
            dynamo=False,
            opset_version=17,
            input_names=list(_INPUTS),
            output_names=["last_hidden_state"],
            dynamic_axes={name: {0: "rows", 1: "tokens"} for name in (*_INPUTS, "last_hidden_state")},
        )
    return folder


def tokens_graph(*, pooled: bool = False, mixing: bool = False, dtype: int = TensorProto.INT64) -> Any:
    """A table of a thousand tokens, three numbers each.

    Args:
        pooled: give the largest of a text's tokens as one vector.
        mixing: add what the whole batch has, as a dynamic quantisation does.
        dtype: of the inputs.
    """
    table = np.arange(1000, dtype=np.float32)[:, None] * np.array([1, 0.5, -1], np.float32)
    axes = ["rows", "tokens"]
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["hidden"])]
    output = "hidden"
    shape: list[str | int | None] = [*axes, 3]
    if mixing:
        nodes.append(helper.make_node("ReduceMax", ["hidden"], ["most"], keepdims=0))
        nodes.append(helper.make_node("Add", ["hidden", "most"], ["mixed"]))
        output = "mixed"
    if pooled:
        # Padding is far below every token.
        nodes += [
            helper.make_node("Cast", ["attention_mask"], ["seen"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["seen", "last"], ["column"]),
            helper.make_node("Sub", ["column", "one"], ["gap"]),
            helper.make_node("Mul", ["gap", "far"], ["push"]),
            helper.make_node("Add", ["hidden", "push"], ["masked"]),
            helper.make_node("ReduceMax", ["masked"], ["sentence_embedding"], axes=[1], keepdims=0),
        ]
        output, shape = "sentence_embedding", ["rows", 3]
    one, far = (np.array([number], np.float32) for number in (1, 1e6))
    constants = {"table": table, "last": np.array([2]), "one": one, "far": far}
    graph = helper.make_graph(
        nodes,
        "tokens",
        [helper.make_tensor_value_info(name, dtype, axes) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
