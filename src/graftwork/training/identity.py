"""Everything that decides the result of a run, by name: two runs that agree in all of it are the same run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from graftwork import __version__
from graftwork.training.processes import processes

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone
    from graftwork.data.conversations import Conversations
    from graftwork.data.dataset import Dataset
    from graftwork.registry.artifact import Artifact
    from graftwork.training.config import TrainingConfig

DECIDING = ("torch", "transformers", "tokenizers", "numpy", "scipy")


def identity_of(
    backbone: Backbone,
    rows: Dataset | Conversations,
    test: Dataset | Conversations | None,
    config: TrainingConfig,
    parent: Artifact | None = None,
    adapt_to: Dataset | None = None,
) -> dict[str, str]:
    """Rows, settings, base model, parent, device and versions, each as text."""
    import torch

    return {
        "rows": rows.digest,
        "test rows": test.digest if test is not None else "none given",
        **({} if adapt_to is None else {"unlabelled rows": adapt_to.digest}),
        "base model": backbone.fingerprint,
        "parent": "none" if parent is None else parent.digest,
        "tokenizer": backbone.tokenizer_digest,
        "pooling": backbone.pooling.model_dump_json(),
        "prompt": backbone.prompt,
        "dtype": backbone.dtype_name,
        "device": backbone.device.type,
        "threads": str(torch.get_num_threads()),
        "processes": str(processes().count),
        **{f"setting {name}": json.dumps(value) for name, value in _flat(config.model_dump(mode="json"))},
        **{f"package {name}": version(name) for name in (*DECIDING, "peft")},
        "package graftwork": __version__,
    }


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
