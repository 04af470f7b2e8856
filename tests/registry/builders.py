"""Tiny base folders, artifacts and registries to test with; other rooms use them too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from graftwork.registry.artifact import DELTA, DELTA_CONFIG, HEAD, Artifact
from graftwork.registry.base_models import AddedBase, BaseModels
from graftwork.registry.base_rows import BaseModel
from graftwork.registry.blobs import BlobStore
from graftwork.registry.catalog import Catalog
from graftwork.registry.database import Database
from graftwork.registry.manifest import DatasetRecord, FileEntry, Manifest, Pooling, TensorSpec
from graftwork.registry.metadata import BaseMetadata

WIDTH = 8
LAYERS = 2
METADATA = BaseMetadata(
    architecture="encoder-only",
    domain="nlp",
    model_type="bert",
    parameters=1_000,
    layers=LAYERS,
    hidden_size=WIDTH,
    max_length=64,
    pooling=Pooling(mode="mean"),
)

Tensors = Mapping[str, np.ndarray[Any, Any]]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def base_tensors(seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(seed)
    return {
        "embeddings.weight": random.standard_normal((32, WIDTH)).astype(np.float32),
        "layer.0.weight": random.standard_normal((WIDTH, WIDTH)).astype(np.float32),
        "layer.1.weight": random.standard_normal((WIDTH, WIDTH)).astype(np.float32),
        "layer.1.bias": random.standard_normal(WIDTH).astype(np.float16),
    }


def make_base_folder(folder: Path, *, seed: int = 0, tensors: Tensors | None = None, readme: str = "A model.") -> Path:
    """A folder in Hugging Face layout; the tensors are drawn from `seed` unless they are given."""
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": WIDTH}))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}}))
    (folder / "1_Pooling" / "config.json").write_text("{}")
    (folder / "README.md").write_text(readme)
    (folder / "model.safetensors").write_bytes(save(dict(tensors or base_tensors(seed)), metadata={"format": "pt"}))
    return folder


def fingerprint_of(folder: Path) -> str:
    """A fingerprint good enough for tests: SHA-256 over config and weights."""
    return sha256((folder / "config.json").read_bytes() + (folder / "model.safetensors").read_bytes())


TOKENIZER = sha256(b"tokenizer")


def make_artifact(
    base: BaseModel | str,
    *,
    seed: int = 0,
    labels: Sequence[str] = ("ham", "spam"),
    parent: str | None = None,
    delta: bool = True,
    rank: int = 2,
    width: int = WIDTH,
    files: Mapping[str, bytes] | None = None,
    **changes: Any,
) -> Artifact:
    """A small adapter that passes `Artifact.check()`, unless `files` or `changes` of the manifest break it.

    Args:
        base: the base model, or its fingerprint (then `tokenizer` is `TOKENIZER`).
        seed: of the weights; another seed gives another digest.
        labels: of the head.
        parent: digest of the parent.
        delta: with low-rank tensors, or the head alone.
        rank: of those.
        width: of the pooled vector.
        files: bytes that replace those of a file; hashes and sizes in the manifest follow them.
        changes: fields of the manifest.
    """
    random = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray[Any, Any]:
        return random.standard_normal(shape).astype(np.float32)

    content = {HEAD: save({"head.weight": draw(len(labels), width), "head.bias": draw(len(labels))})}
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    if delta:
        name = "base_model.model.layer.1.attention.query"
        tensors = {f"{name}.lora_A.weight": draw(rank, width), f"{name}.lora_B.weight": draw(width, rank)}
        content[DELTA] = save(tensors)
        content[DELTA_CONFIG] = json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank}).encode()
    content.update(files or {})
    fields: dict[str, Any] = {
        "base": base if isinstance(base, str) else base.fingerprint,
        "tokenizer": TOKENIZER if isinstance(base, str) else base.tokenizer,
        "parent": parent,
        "strategy": "lora" if delta else "feature-extraction",
        "labels": tuple(labels),
        "pooling": Pooling(mode="mean"),
        "max_length": 64,
        "split": 1 if delta else LAYERS,
        "layers": LAYERS,
        "width": width,
        "dtype": "float32",
        "tensors": tuple(TensorSpec(name=n, shape=t.shape, dtype="float32") for n, t in sorted(tensors.items())),
        "files": tuple(FileEntry(path=n, sha256=sha256(c), size=len(c)) for n, c in sorted(content.items())),
        "temperature": 1.0,
        "dataset": DatasetRecord(digest=sha256(b"rows"), rows=10, train_rows=6, validation_rows=2, test_rows=2),
        "seed": seed,
    }
    return Artifact(Manifest(**(fields | changes)), content)


@dataclass
class Registry:
    """A registry in a folder."""

    home: Path
    database: Database
    blobs: BlobStore
    bases: BaseModels
    catalog: Catalog

    @classmethod
    def open(cls, home: Path) -> Registry:
        database = Database.open(f"sqlite:///{home / 'registry.db'}")
        blobs = BlobStore.open((home / "blobs").as_uri())
        return cls(home, database, blobs, BaseModels(database, blobs, home / "cache"), Catalog(database, blobs))

    def add_base(self, name: str = "tiny", *, seed: int = 0, **changes: Any) -> AddedBase:
        """Add a tiny base model; the same seed gives the same content."""
        folder = self.home / "sources" / f"{name}-{seed}"
        if not folder.exists():
            make_base_folder(folder, seed=seed)
        fields: dict[str, Any] = {"fingerprint": fingerprint_of(folder), "tokenizer": TOKENIZER, "metadata": METADATA}
        return self.bases.add(folder, name=name, **(fields | changes))

    def close(self) -> None:
        self.database.close()

    def blob_path(self, digest: str) -> Path:
        """Where a blob lies."""
        return self.home / "blobs" / "sha256" / digest[:2] / digest[2:]
