"""Other people's fast forwards of the same network, set up as their documentation says.

Each takes a folder in Hugging Face layout and a batch, and gives a call that computes the last hidden state. Packages
of the extra `bench` that are not installed leave their line out; the table says so.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.backbones.backbone import TokenBatch

Call = Callable[[], Any]


def transformers_model(folder: Path, dtype: str, **options: Any) -> Any:
    """The network as transformers loads it."""
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder, dtype=getattr(torch, dtype), **options).eval()


def transformers_eager(folder: Path, dtype: str, batch: TokenBatch) -> Call:
    """What most people run."""
    model = transformers_model(folder, dtype)
    return lambda: model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state


def torch_compile(folder: Path, dtype: str, batch: TokenBatch) -> Call:
    """`torch.compile` with inductor's freezing: weights are constants, prepacked for the hardware."""
    import torch._inductor.config as inductor

    compiled: Any = torch.compile(transformers_model(folder, dtype))

    def call() -> Any:
        return compiled(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state

    with inductor.patch(freezing=True), torch.inference_mode():
        call()
    return call


def openvino(folder: Path, dtype: str, batch: TokenBatch) -> Call:
    """OpenVINO: converted once, one stream, the setting's threads."""
    import openvino as ov

    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    with quiet():
        converted = ov.convert_model(
            transformers_model(folder, "float32", attn_implementation="eager"), example_input=inputs
        )
    compiled = ov.Core().compile_model(
        converted,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        },
    )
    request = compiled.create_infer_request()
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    return lambda: request.infer(arrays, share_inputs=True, share_outputs=True)[0]


def onnx_runtime(folder: Path, batch: TokenBatch, store: Path, *, int8: bool) -> Call:
    """ONNX Runtime in float32, or with its dynamic int8 quantisation; it has no bfloat16 on CPUs."""
    import onnxruntime as ort

    path = _exported(folder, batch, store, int8=int8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    arrays = {"input_ids": batch.input_ids.numpy(), "attention_mask": batch.attention_mask.numpy()}
    return lambda: session.run(None, arrays)[0]


def installed(*packages: str) -> bool:
    """Whether the packages of a peer are there."""
    return all(find_spec(package) is not None for package in packages)


class _LastHiddenState(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def _exported(folder: Path, batch: TokenBatch, store: Path, *, int8: bool) -> Path:
    """The ONNX file of the network, written anew in each run: an old one might be another model's."""
    store.mkdir(parents=True, exist_ok=True)
    plain, quantised = store / "model.onnx", store / "model-int8.onnx"
    names = ["input_ids", "attention_mask"]
    with quiet():
        torch.onnx.export(
            _LastHiddenState(transformers_model(folder, "float32", attn_implementation="eager")),
            (batch.input_ids, batch.attention_mask),
            str(plain),
            dynamo=False,
            opset_version=17,
            input_names=names,
            output_names=["hidden"],
            dynamic_axes={name: {0: "rows", 1: "tokens"} for name in [*names, "hidden"]},
        )
        if not int8:
            return plain
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(str(plain), str(quantised), weight_type=QuantType.QInt8)
    return quantised


@contextmanager
def quiet() -> Iterator[None]:
    """Exporters warn of every shape they trace; that is not for readers of a table."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
