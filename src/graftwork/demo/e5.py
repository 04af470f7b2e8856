"""multilingual-e5-small from its 4-bit file (format E5S1) to a Hugging Face folder.

The 4-bit rounding is baked into the float32 weights that come out. NumPy is all it takes.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import DownloadFailed

Weights = dict[str, NDArray[np.float32]]

# 32 values in 18 bytes: one scale, then two 4-bit values a byte, low halves first.
_BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])


@dataclass(frozen=True)
class E5File:
    """What the file holds.

    Attributes:
        sizes: hidden size, layers, heads, feed-forward size, vocabulary, positions, token types.
        epsilon: of the layer norms.
        pieces: the vocabulary's pieces in order, with their log probabilities.
        special: ids of the tokens that begin, end, pad and stand for the unknown.
        tensors: flat float32 values by the file's own names.
    """

    sizes: tuple[int, int, int, int, int, int, int]
    epsilon: float
    pieces: list[tuple[str, float]]
    special: tuple[int, int, int, int]
    tensors: Weights


def convert(source: Path, out: Path) -> None:
    """Write config.json, model.safetensors, tokenizer.json and tokenizer_config.json into `out`.

    Raises:
        DownloadFailed: the file is not of the format E5S1.
    """
    from safetensors.numpy import save_file

    parsed = parse(source.read_bytes())
    # The entry "format" is what transformers looks for before it loads a file.
    save_file(_state(parsed), out / "model.safetensors", metadata={"format": "pt"})
    for name, content in (
        ("config.json", _config(parsed)),
        ("tokenizer.json", _tokenizer(parsed)),
        ("tokenizer_config.json", _tokenizer_config(parsed)),
    ):
        (out / name).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", "utf-8")


def parse(data: bytes) -> E5File:
    """Read the file.

    Layout, little-endian: magic, version, seven sizes, epsilon, a word, five counts (pieces, begin, end, pad, unknown);
    the pieces' bytes (length, offsets, scores, text); the normaliser; then the index of the tensors.
    """
    if data[:4] != b"E5S1":
        raise DownloadFailed("the weights of e5 are not in the format E5S1", remedy="Update Graftwork.")
    sizes = struct.unpack_from("<7i", data, 8)
    (epsilon,) = struct.unpack_from("<f", data, 36)
    count, *special = struct.unpack_from("<5i", data, 44)
    (length,) = struct.unpack_from("<Q", data, 64)
    at = 72
    offsets = np.frombuffer(data, "<u4", count + 1, at)
    at += 4 * (count + 1)
    scores = np.frombuffer(data, "<f4", count, at)
    at += 4 * count
    text = data[at : at + length]
    at += length
    pieces = [
        (text[start:end].decode("utf-8", "replace"), float(score))
        for start, end, score in zip(offsets[:-1], offsets[1:], scores, strict=True)
    ]
    _, normaliser = struct.unpack_from("<iI", data, at)
    begin, end, pad, unknown = special
    return E5File(sizes, epsilon, pieces, (begin, end, pad, unknown), _tensors(data, at + 8 + normaliser))


def _tensors(data: bytes, at: int) -> Weights:
    (count,) = struct.unpack_from("<i", data, at)
    at += 4
    tensors: Weights = {}
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data, at)
        name = data[at + 2 : at + 2 + length].decode()
        at += 2 + length + 1  # the last byte names the stored type, which the size tells as well
        values, offset, size = struct.unpack_from("<IQQ", data, at)
        at += 20
        if size == 4 * values:
            tensors[name] = np.frombuffer(data, "<f4", values, offset)
        else:
            blocks = np.frombuffer(data, _BLOCK, size // _BLOCK.itemsize, offset)
            nibbles = np.concatenate([blocks["nibbles"] & 15, blocks["nibbles"] >> 4], axis=1).astype(np.float32) - 8
            tensors[name] = (nibbles * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)
    return tensors


def _state(parsed: E5File) -> Weights:
    """The tensors under the names and in the shapes of a BERT encoder without pooler."""
    hidden, layers, _, inner, vocabulary, positions, types = parsed.sizes
    given = parsed.tensors
    kinds = np.zeros((types, hidden), dtype=np.float32)
    stored = given["emb.type"].reshape(-1, hidden)
    kinds[: len(stored)] = stored
    state = {
        "embeddings.word_embeddings.weight": given["emb.word"].reshape(vocabulary, hidden),
        "embeddings.position_embeddings.weight": given["emb.pos"].reshape(positions, hidden),
        "embeddings.token_type_embeddings.weight": kinds,
        "embeddings.LayerNorm.weight": given["emb.ln.w"],
        "embeddings.LayerNorm.bias": given["emb.ln.b"],
    }
    shapes = {
        "q": ("attention.self.query", (hidden, hidden)),
        "k": ("attention.self.key", (hidden, hidden)),
        "v": ("attention.self.value", (hidden, hidden)),
        "ao": ("attention.output.dense", (hidden, hidden)),
        "aln": ("attention.output.LayerNorm", (hidden,)),
        "fi": ("intermediate.dense", (inner, hidden)),
        "fo": ("output.dense", (hidden, inner)),
        "oln": ("output.LayerNorm", (hidden,)),
    }
    for layer in range(layers):
        for short, (full, shape) in shapes.items():
            state[f"encoder.layer.{layer}.{full}.weight"] = given[f"l{layer}.{short}.w"].reshape(shape)
            state[f"encoder.layer.{layer}.{full}.bias"] = given[f"l{layer}.{short}.b"]
    return {name: np.ascontiguousarray(values) for name, values in state.items()}


def _config(parsed: E5File) -> dict[str, Any]:
    hidden, layers, heads, inner, vocabulary, positions, types = parsed.sizes
    return {
        "architectures": ["BertModel"],
        "attention_probs_dropout_prob": 0.1,
        "dtype": "float32",
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": inner,
        "layer_norm_eps": parsed.epsilon,
        "max_position_embeddings": positions,
        "model_type": "bert",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "pad_token_id": parsed.special[2],
        "type_vocab_size": types,
        "vocab_size": vocabulary,
    }


def _tokenizer(parsed: E5File) -> dict[str, Any]:
    begin, end, pad, unknown = parsed.special
    special = {begin: "<s>", end: "</s>", pad: "<pad>", unknown: "<unk>"}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}

    def token(name: str) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": 0}}

    def text(name: str) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": 0}}

    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, "content": content, **flags} for index, content in sorted(special.items())],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "NFKC"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}],
        },
        "pre_tokenizer": metaspace,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [token("<s>"), text("A"), token("</s>")],
            "pair": [token("<s>"), text("A"), token("</s>"), token("</s>"), text("B"), token("</s>")],
            "special_tokens": {
                name: {"id": name, "ids": [index], "tokens": [name]} for name, index in (("<s>", begin), ("</s>", end))
            },
        },
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": unknown, "vocab": parsed.pieces, "byte_fallback": False},
    }


def _tokenizer_config(parsed: E5File) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "model_max_length": parsed.sizes[5],
        "model_input_names": ["input_ids", "attention_mask"],
    }
