"""Look at a folder with an ONNX graph before it is added: is it safe, does it give vectors, what is its identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from graftwork.backbones.card import read_card
from graftwork.backbones.fingerprint import TOKENIZER_VOCABULARIES
from graftwork.backbones.onnx_graph import OnnxGraph, read_graph
from graftwork.backbones.onnx_network import MODEL_TYPE, OnnxNetwork
from graftwork.backbones.sentence import read_sentence_settings
from graftwork.backbones.tokenizer import Tokenizer, load_tokenizer
from graftwork.errors import ModelUnreadable, ModelUnsupported, Problem
from graftwork.registry.manifest import Pooling

_USUAL_LENGTH = 512
_ALIKE = 1e-3  # a row's vector beside others and alone, as a share of its largest number
_TEXTS = ("the court granted the appeal", "a", "wonderful weather today, is it not?")


def onnx_facts(path: Path, given: Mapping[str, Any]) -> tuple[OnnxGraph, dict[str, Any]]:
    """Check a graph and its tokenizer by asking both; tell what `BaseMetadata` wants to know.

    Args:
        path: the ONNX file, in a folder with the tokenizer's files.
        given: what the user said.

    Returns:
        The graph, and the fields.

    Raises:
        DependencyMissing: if onnx or onnxruntime is not installed.
        ModelUnreadable: if anything is damaged, unsafe or missing.
        ModelUnsupported: if the graph cannot serve as a base.
    """
    folder = path.parent
    if not any((folder / name).is_file() for name in TOKENIZER_VOCABULARIES):
        raise ModelUnreadable(
            f"{folder} holds {path.name}, but no tokenizer",
            problems=[
                Problem("tokenizer.json", "is missing, and so is every other file a tokenizer could be read from")
            ],
            remedy="Copy tokenizer.json and tokenizer_config.json of the model the graph was made from beside it.",
        )
    graph = read_graph(path, output=str(given.get("output", "")))
    sentence = read_sentence_settings(folder)
    tokenizer = load_tokenizer(folder)
    length = given.get("max_length") or sentence.max_length or tokenizer.model_max_length or _USUAL_LENGTH
    width = _try_out(graph, tokenizer, length if isinstance(length, int) else _USUAL_LENGTH)
    usual = Pooling(mode="cls") if graph.pooled else sentence.pooling or Pooling(mode="mean")
    return graph, {
        "architecture": "encoder-only",
        "domain": "nlp",
        "model_type": MODEL_TYPE,
        "parameters": graph.parameters,
        "layers": 1,
        "hidden_size": width,
        "vocabulary": tokenizer.size,
        "max_length": length,
        "dtype": "float32",
        "pooling": usual,
        "prompt": sentence.prompt,
        "output": graph.output,
        "source": folder.resolve().name,
        "recommended_tasks": (),
        **read_card(folder),
    }


def onnx_fingerprint(graph: OnnxGraph, metadata: Any, *, tokenizer: str) -> str:
    """SHA-256 of the graph's bytes, its weights', the tokenizer and how it is used."""
    content = {
        "format": 1,
        "graph": [_sha256(path) for path in graph.files],
        "output": metadata.output,
        "tokenizer": tokenizer,
        "pooling": metadata.pooling.model_dump(mode="json"),
        "prompt": metadata.prompt,
        "max_length": metadata.max_length,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _try_out(graph: OnnxGraph, tokenizer: Tokenizer, max_length: int) -> int:
    """Ask the graph for rows of several lengths, for the longest, and for the last token; give the width.

    Raises:
        ModelUnsupported: if it cannot answer, or a row's answer depends on the rows beside it.
    """
    network = OnnxNetwork(graph)
    rows = tokenizer.encode(_TEXTS, max_length)
    problems = []
    try:
        together = _vectors(network, rows, tokenizer.pad_id)
    except Exception as error:
        raise _unusable(graph, [Problem("three texts", _first_line(error))]) from error
    for what, ids in (
        (f"a text of {max_length} tokens", [(rows[0] * max_length)[:max_length]]),
        (f"the tokenizer's last token, {tokenizer.size - 1}", [[*rows[0][:-1], tokenizer.size - 1]]),
    ):
        try:
            _vectors(network, ids, tokenizer.pad_id)
        except Exception as error:
            problems.append(Problem(what, _first_line(error)))
    for index, row in enumerate(rows):
        (alone,) = _vectors(network, [row], tokenizer.pad_id)
        apart = float(np.abs(alone - together[index]).max() / max(np.abs(alone).max(), 1e-9))
        if not apart <= _ALIKE:
            problems.append(Problem(f"text {index + 1}", f"has another vector beside other texts (by {apart:.1%})"))
    if problems:
        raise _unusable(graph, problems)
    return int(together[0].shape[-1])


def _vectors(network: OnnxNetwork, rows: Sequence[Sequence[int]], pad: int) -> list[NDArray[np.float32]]:
    """The vectors of each row's own tokens, padding left out."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    hidden = network(ids, mask).last_hidden_state.numpy()
    return [hidden[index, : len(row)] for index, row in enumerate(rows)]


def _unusable(graph: OnnxGraph, problems: Sequence[Problem]) -> ModelUnsupported:
    return ModelUnsupported(
        f"{graph.path.name} was asked, and cannot serve as a base",
        problems=problems,
        remedy="Where texts are too long, add it with --set max_length=NUMBER; the tokenizer must be the graph's own; "
        "a graph that was quantised dynamically depends on what is asked beside.",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
