"""From what was trained to an artifact."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save

from graftwork import __version__
from graftwork.registry.artifact import HEAD, Artifact
from graftwork.registry.manifest import AdaptationRecord, DatasetRecord, FileEntry, Manifest
from graftwork.training.config import TrainingConfig
from graftwork.training.identity import DECIDING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from graftwork.backbones.backbone import Backbone
    from graftwork.data.findings import Finding
    from graftwork.training.candidate import Candidate


def package(
    backbone: Backbone,
    candidate: Candidate,
    *,
    labels: Sequence[str],
    dataset: DatasetRecord,
    warnings: Sequence[Finding],
    max_length: int,
    config: TrainingConfig,
    parent: Artifact | None = None,
    continues: Artifact | None = None,
    adaptation: AdaptationRecord | None = None,
) -> Artifact:
    """Build the artifact of a trained adapter, not judged yet.

    Args:
        backbone: the backbone it was trained on.
        candidate: the delta and the head, and how they came to be chosen.
        labels: label names in the order of the head's rows.
        dataset: which rows it was made from.
        warnings: what the check of the rows warned of.
        max_length: tokens kept of a text.
        config: the resolved settings.
        parent: the adapter it was trained on top of.
        continues: the version it went on from.
        adaptation: how it was adapted to unlabelled rows.
    """
    files = {HEAD: save(_head(candidate)), **candidate.delta.files}
    settings = config.model_dump(mode="json")
    if candidate.learning_rate is not None:
        settings["fine_tuning"]["learning_rate"] = candidate.learning_rate
    packages = versions_that_decide(peft=bool(candidate.delta.files))
    manifest = Manifest(
        **facts_of(backbone),
        parent=None if parent is None else parent.digest,
        continues=None if continues is None else continues.digest,
        strategy=candidate.strategy,
        strategy_settings=settings.get(candidate.strategy.replace("-", "_"), {}),
        labels=tuple(labels),
        max_length=max_length,
        split=candidate.delta.split if parent is None else min(candidate.delta.split, parent.manifest.split),
        hidden=None if candidate.hidden is None else len(candidate.hidden[1]),
        tensors=candidate.delta.tensors,
        files=entries_of(files),
        temperature=candidate.temperature,
        dataset=dataset,
        warnings=(*warnings, *candidate.warnings),
        decision=candidate.decision,
        adaptation=adaptation,
        settings=settings,
        seed=config.seed,
        packages=packages,
    )
    return Artifact(manifest, files)


def facts_of(backbone: Backbone) -> dict[str, Any]:
    """What a manifest says of the backbone that an adapter was made on."""
    return {
        "base": backbone.fingerprint,
        "pooling": backbone.pooling,
        "modality": backbone.modality,
        "prompt": backbone.prompt,
        "tokenizer": backbone.tokenizer_digest,
        "layers": backbone.num_layers,
        "width": backbone.width,
        "dtype": backbone.dtype_name,
        "base_dtype": backbone.bits,
    }


def _head(candidate: Candidate) -> dict[str, torch.Tensor]:
    """The head's tensors by name, float32."""
    parts = {"head.weight": candidate.weight, "head.bias": candidate.bias}
    if candidate.hidden is not None:
        parts |= dict(zip(("hidden.weight", "hidden.bias"), candidate.hidden, strict=True))
    return {name: torch.from_numpy(np.ascontiguousarray(part, dtype=np.float32)) for name, part in parts.items()}


def entries_of(files: Mapping[str, bytes]) -> tuple[FileEntry, ...]:
    """What a manifest says of its files."""
    return tuple(
        FileEntry(path=name, sha256=hashlib.sha256(files[name]).hexdigest(), size=len(files[name]))
        for name in sorted(files)
    )


def versions_that_decide(*, peft: bool) -> dict[str, str]:
    """Versions of the packages on which an adapter's bytes depend."""
    names = (*DECIDING, *(("peft",) if peft else ()))
    return {"graftwork": __version__, **{name: version(name) for name in names}}
