"""Whisper base from its CTranslate2 file, float16 in several parts, to a Hugging Face folder.

The weights stay what they are, value for value and in float16. NumPy is all it takes.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import DownloadFailed

Weights = dict[str, NDArray[Any]]

_VERSION = 6
_DTYPES = {0: "<f4", 1: "i1", 2: "<i2", 3: "<i4", 4: "<f2"}
_HEAD_WIDTH = 64  # in every size of Whisper
_END_OF_TEXT, _START_OF_TRANSCRIPT = 50257, 50258


def convert(parts: Sequence[Path], tokenizer: Path, out: Path) -> None:
    """Write config.json, model.safetensors, preprocessor_config.json and tokenizer.json into `out`.

    Args:
        parts: the file's parts in order.
        tokenizer: its tokenizer.json, which is copied.
        out: an empty folder.

    Raises:
        DownloadFailed: it is not CTranslate2's file of a Whisper.
    """
    from safetensors.numpy import save_file

    weights = parse(b"".join(part.read_bytes() for part in parts))
    save_file(_state(weights), out / "model.safetensors", metadata={"format": "pt"})
    for name, content in (("config.json", _config(weights)), ("preprocessor_config.json", _preprocessor(weights))):
        (out / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    (out / "tokenizer.json").write_bytes(tokenizer.read_bytes())


def parse(data: bytes) -> Weights:
    """Read the variables of a CTranslate2 model.

    Layout, little-endian: version, name of the specification, its revision, count; then for each variable its name,
    rank, sizes, type, bytes and values. A name is its length in 16 bits and its text, which ends with a zero byte.
    """
    at = 0

    def take(kind: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from("<" + kind, data, at)
        at += struct.calcsize(kind)
        return int(value)

    def take_name() -> str:
        nonlocal at
        length = take("H")
        at += length
        return data[at - length : at - 1].decode()

    if take("I") != _VERSION or take_name() != "WhisperSpec":
        raise DownloadFailed("the weights of whisper are not CTranslate2's of a Whisper", remedy="Update Graftwork.")
    take("I")
    weights: Weights = {}
    for _ in range(take("I")):
        name = take_name()
        shape = [take("I") for _ in range(take("B"))]
        kind, size = np.dtype(_DTYPES[take("B")]), take("I")
        weights[name] = np.frombuffer(data, kind, size // kind.itemsize, at).reshape(shape)
        at += size
    return weights


def _layers(weights: Weights, side: str) -> int:
    numbers = [int(found[1]) for name in weights if (found := re.match(rf"{side}/layer_(\d+)/", name))]
    return 1 + max(numbers)


def _config(weights: Weights) -> dict[str, Any]:
    vocabulary, width = weights["decoder/embeddings/weight"].shape
    config: dict[str, Any] = {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "is_encoder_decoder": True,
        "vocab_size": vocabulary,
        "d_model": width,
        "num_mel_bins": weights["encoder/conv1/weight"].shape[1],
        "max_source_positions": weights["encoder/position_encodings/encodings"].shape[0],
        "max_target_positions": weights["decoder/position_encodings/encodings"].shape[0],
        "activation_function": "gelu",
        "tie_word_embeddings": True,
        "suppress_tokens": None,
        "begin_suppress_tokens": None,
        "bos_token_id": _END_OF_TEXT,
        "eos_token_id": _END_OF_TEXT,
        "pad_token_id": _END_OF_TEXT,
        "decoder_start_token_id": _START_OF_TRANSCRIPT,
        "dtype": "float16",
    }
    for side in ("encoder", "decoder"):
        config[f"{side}_layers"] = _layers(weights, side)
        config[f"{side}_attention_heads"] = width // _HEAD_WIDTH
        config[f"{side}_ffn_dim"] = weights[f"{side}/layer_0/ffn/linear_0/weight"].shape[0]
    return config


def _preprocessor(weights: Weights) -> dict[str, Any]:
    """What `WhisperFeatureExtractor` is made with: 25 ms windows every 10 ms of 16 kHz, padded to 30 s."""
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": weights["encoder/conv1/weight"].shape[1],
        "sampling_rate": 16_000,
        "hop_length": 160,
        "chunk_length": 30,
        "n_fft": 400,
        "padding_value": 0.0,
        "return_attention_mask": False,
    }


def _state(weights: Weights) -> Weights:
    """The tensors under the names of a Whisper; its output matrix is its decoder's embedding."""
    state = {"model.decoder.embed_tokens.weight": weights["decoder/embeddings/weight"]}
    for conv in ("conv1", "conv2"):
        state |= _linear(weights, f"encoder/{conv}", f"model.encoder.{conv}")
    for side in ("encoder", "decoder"):
        state[f"model.{side}.embed_positions.weight"] = weights[f"{side}/position_encodings/encodings"]
        state |= _norm(weights, f"{side}/layer_norm", f"model.{side}.layer_norm")
        for layer in range(_layers(weights, side)):
            state |= _layer(weights, f"{side}/layer_{layer}", f"model.{side}.layers.{layer}")
    return {name: np.ascontiguousarray(values) for name, values in state.items()}


def _layer(weights: Weights, name: str, target: str) -> Weights:
    state = _fused(weights, f"{name}/self_attention/linear_0", f"{target}.self_attn", "qkv")
    state |= _linear(weights, f"{name}/self_attention/linear_1", f"{target}.self_attn.out_proj")
    state |= _norm(weights, f"{name}/self_attention/layer_norm", f"{target}.self_attn_layer_norm")
    if f"{name}/attention/linear_0/weight" in weights:
        state |= _linear(weights, f"{name}/attention/linear_0", f"{target}.encoder_attn.q_proj")
        state |= _fused(weights, f"{name}/attention/linear_1", f"{target}.encoder_attn", "kv")
        state |= _linear(weights, f"{name}/attention/linear_2", f"{target}.encoder_attn.out_proj")
        state |= _norm(weights, f"{name}/attention/layer_norm", f"{target}.encoder_attn_layer_norm")
    state |= _linear(weights, f"{name}/ffn/linear_0", f"{target}.fc1")
    state |= _linear(weights, f"{name}/ffn/linear_1", f"{target}.fc2")
    return state | _norm(weights, f"{name}/ffn/layer_norm", f"{target}.final_layer_norm")


def _linear(weights: Weights, name: str, target: str) -> Weights:
    return {f"{target}.weight": weights[f"{name}/weight"], f"{target}.bias": weights[f"{name}/bias"]}


def _norm(weights: Weights, name: str, target: str) -> Weights:
    return {f"{target}.weight": weights[f"{name}/gamma"], f"{target}.bias": weights[f"{name}/beta"]}


def _fused(weights: Weights, name: str, target: str, parts: str) -> Weights:
    """Projections stored as one matrix; Whisper's key projection has no bias."""
    matrices = np.split(weights[f"{name}/weight"], len(parts))
    biases = np.split(weights[f"{name}/bias"], len(parts))
    state = {f"{target}.{part}_proj.weight": matrix for part, matrix in zip(parts, matrices, strict=True)}
    state |= {f"{target}.{part}_proj.bias": bias for part, bias in zip(parts, biases, strict=True) if part != "k"}
    return state
