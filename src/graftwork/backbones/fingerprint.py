"""The identity of a base model: SHA-256 over everything that decides its answers, and nothing else.

Two folders have one fingerprint when they give the same vectors: how the tensors are sharded into files, how JSON is
laid out, model cards and licences do not count; one changed weight, setting or token does. Nothing but hashlib and
json takes part, so that no version of any library can change an identity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graftwork.backbones.weights import StoredTensor, TensorSum
from graftwork.registry.manifest import Pooling

TOKENIZER_VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
TOKENIZER_FILES = (
    *TOKENIZER_VOCABULARIES,
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
PREPROCESSING = 1
"""Raised when the code that makes media ready gives other values for the same file of settings."""

# What a library notes about where a file came from, and how batches were last cut and padded: tokenisation here sets
# its own.
_IDLE_SETTINGS = {
    "tokenizer.json": ("truncation", "padding"),
    "tokenizer_config.json": ("name_or_path", "special_tokens_map_file", "tokenizer_file"),
    "config.json": ("_name_or_path",),
}


def tokenizer_digest(folder: Path) -> str:
    """SHA-256 of a folder's tokenizer (or of an image or audio processor): its files, JSON in canonical form."""
    parts = {
        name: _content_digest(folder / name)
        for name in sorted({*TOKENIZER_FILES, *PROCESSOR_FILES})
        if (folder / name).is_file()
    }
    if any(name in parts for name in PROCESSOR_FILES):
        parts["preprocessing"] = str(PREPROCESSING)
    return _sha256_json(parts)


def base_fingerprint(
    folder: Path,
    tensors: Sequence[StoredTensor],
    sums: Mapping[str, TensorSum],
    *,
    tokenizer: str,
    pooling: Pooling,
    prompt: str,
    max_length: int,
) -> str:
    """SHA-256 of a base model.

    Args:
        folder: holds config.json.
        tensors: its tensors.
        sums: their digests by name.
        tokenizer: digest of its tokenizer.
        pooling: how its token vectors are pooled; like prompt and max_length it may have been overridden, and then it
            is another base that shares the blobs.
        prompt: text put before every input.
        max_length: tokens a text may have.
    """
    weights = sorted([tensor.name, tensor.dtype, list(tensor.shape), sums[tensor.name].sha256] for tensor in tensors)
    return _sha256_json(
        {
            "format": 1,
            "config": _content_digest(folder / "config.json"),
            "weights": _sha256_json(weights),
            "tokenizer": tokenizer,
            "pooling": pooling.model_dump(mode="json"),
            "prompt": prompt,
            "max_length": max_length,
        }
    )


def _content_digest(file: Path) -> str:
    raw = file.read_bytes()
    if file.suffix != ".json":
        return hashlib.sha256(raw).hexdigest()
    content = json.loads(raw)
    if isinstance(content, dict):
        for name in _IDLE_SETTINGS.get(file.name, ()):
            content.pop(name, None)
    return _sha256_json(content)


def _sha256_json(content: Any) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()
