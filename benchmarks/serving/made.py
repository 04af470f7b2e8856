"""Adapters that nobody trained: random numbers in the shapes and files of trained ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import peft
from numpy.typing import NDArray
from safetensors.numpy import save

from graftwork.backbones.backbone import Backbone
from graftwork.registry.artifact import DELTA, DELTA_CONFIG, HEAD, Artifact
from graftwork.registry.manifest import DatasetRecord, FileEntry, Manifest, TensorSpec

RANK = 8
TARGETS = ("query", "value")
CLASSES = 16

_ROWS = DatasetRecord(digest="0" * 64, rows=1000, train_rows=800, validation_rows=100, test_rows=100)


def adapted_modules(backbone: Backbone) -> dict[str, tuple[int, int]]:
    """The query and value projections: inputs and outputs, by the module's name."""
    found = {
        name: tuple(module.weight.shape[::-1])
        for name, module in backbone.model.named_modules()
        if name.rsplit(".", 1)[-1] in TARGETS
    }
    if not found:
        raise SystemExit("the benchmarks adapt modules named query and value; take a BERT-like model")
    return found


def lora(backbone: Backbone, seed: int) -> Artifact:
    """A LoRA of rank 8 on query and value with a head of 16 classes, stored in float16 as training does."""
    random = np.random.default_rng(seed)
    tensors: dict[str, NDArray[Any]] = {}
    for module, (inputs, outputs) in adapted_modules(backbone).items():
        for side, shape in (("A", (RANK, inputs)), ("B", (outputs, RANK))):
            values = random.standard_normal(shape, dtype=np.float32) * 0.02
            tensors[f"base_model.model.{module}.lora_{side}.weight"] = values.astype(np.float16)
    files = {DELTA: save(dict(sorted(tensors.items()))), DELTA_CONFIG: _peft_config(), HEAD: _head(backbone, random)}
    return _packed(backbone, seed, files, tensors, strategy="lora", split=0)


def head_only(backbone: Backbone, seed: int) -> Artifact:
    """A head of 16 classes on the base's own vectors."""
    files = {HEAD: _head(backbone, np.random.default_rng(seed))}
    return _packed(backbone, seed, files, {}, strategy="feature-extraction", split=backbone.num_layers)


def _head(backbone: Backbone, random: np.random.Generator) -> bytes:
    weight = random.standard_normal((CLASSES, backbone.width), dtype=np.float32)
    content: bytes = save({"head.bias": random.standard_normal(CLASSES, dtype=np.float32), "head.weight": weight})
    return content


@cache
def _peft_config() -> bytes:
    config: dict[str, Any] = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=list(TARGETS)).to_dict()
    return json.dumps(config | {"target_modules": list(TARGETS)}).encode()


def _packed(
    backbone: Backbone,
    seed: int,
    files: Mapping[str, bytes],
    tensors: Mapping[str, NDArray[Any]],
    *,
    strategy: str,
    split: int,
) -> Artifact:
    manifest = Manifest(
        base=backbone.fingerprint,
        strategy=strategy,
        labels=tuple(f"class {index}" for index in range(CLASSES)),
        pooling=backbone.pooling,
        prompt=backbone.prompt,
        max_length=backbone.max_length,
        tokenizer=backbone.tokenizer_digest,
        split=split,
        layers=backbone.num_layers,
        width=backbone.width,
        dtype=backbone.dtype_name,
        tensors=tuple(TensorSpec(name=n, shape=t.shape, dtype="float16") for n, t in sorted(tensors.items())),
        files=tuple(
            FileEntry(path=name, sha256=hashlib.sha256(content).hexdigest(), size=len(content))
            for name, content in sorted(files.items())
        ),
        temperature=1.0,
        dataset=_ROWS,
        seed=seed,
    )
    return Artifact(manifest, files)
