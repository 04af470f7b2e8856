"""An ONNX graph in the place of a network: a frozen base that ONNX Runtime computes.

It has no weights that anything could be attached to: one layer that is never adapted, for feature extraction alone.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from graftwork.backbones.batch import TokenBatch
from graftwork.backbones.network import Network
from graftwork.backbones.onnx_graph import OnnxGraph, read_graph
from graftwork.backbones.stack import LayerStack
from graftwork.errors import ModelUnreadable, Problem, SettingsInvalid

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone

MODEL_TYPE = "onnx"


class OnnxNetwork(nn.Module):
    """A graph behind the call of a text encoder; computes in float32 on the CPU, without gradients.

    Args:
        graph: the graph.

    Attributes:
        config: what is known of it in the words of transformers.
    """

    def __init__(self, graph: OnnxGraph, width: int = 0) -> None:
        super().__init__()
        self._graph = graph
        self._session = _session(graph.path)
        self.config = SimpleNamespace(model_type=MODEL_TYPE, hidden_size=width, is_encoder_decoder=False)
        # Whoever asks a network for its dtype and place asks its first parameter.
        self.place = nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        """The last hidden state, float32 `[rows, tokens, width]`; a pooled vector stands at every token of its row."""
        roles = {"input_ids": input_ids, "attention_mask": attention_mask}
        given = {}
        for each in self._graph.inputs:
            values = roles.get(each.role)
            given[each.name] = (torch.zeros_like(input_ids) if values is None else values).numpy().astype(each.dtype)
        (found,) = self._session.run([self._graph.output], given)
        hidden = torch.from_numpy(np.ascontiguousarray(found, dtype=np.float32))
        if self._graph.pooled:
            hidden = hidden[:, None].expand(-1, input_ids.shape[1], -1)
        return SimpleNamespace(last_hidden_state=hidden)


def open_onnx_network(path: Path, *, output: str, width: int) -> Network:
    """Read, check and open a graph as a network of one layer.

    Args:
        path: the file.
        output: the output that is used.
        width: numbers in a vector.

    Raises:
        DependencyMissing, ModelUnreadable, ModelUnsupported: see `read_graph`.
    """
    network = OnnxNetwork(read_graph(path, output=output), width).eval()
    ids = torch.zeros((2, 3), dtype=torch.int64)
    sample = TokenBatch(ids, torch.ones_like(ids))
    return Network(network, LayerStack(("graph",), (network,)), (), sample, frozenset())


def is_graph(backbone: Backbone) -> bool:
    """Whether a backbone is an ONNX graph, which can be asked and not changed."""
    return isinstance(backbone.model, OnnxNetwork)


def refuse_adapting(strategy: str) -> SettingsInvalid:
    """What to raise when more than a head is asked for on a graph."""
    return SettingsInvalid(
        f"this base is an ONNX graph, and {strategy} changes weights, which a graph does not let it reach",
        problems=[Problem("strategy", f"is {strategy}; on an ONNX base it can be feature-extraction")],
        remedy="Use --strategy feature-extraction, or add the model from its safetensors weights.",
    )


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        first = str(error).strip().splitlines()[0]
        raise ModelUnreadable(
            f"ONNX Runtime cannot open {path.name}",
            problems=[Problem(path.name, first)],
            remedy="Export the model again, for the operators of a version that onnxruntime knows.",
        ) from error
