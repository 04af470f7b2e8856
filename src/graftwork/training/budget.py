"""How much an adapter may take where it is stored: the rank and the dtype that keep it within a budget."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from graftwork.adaptation import STRATEGIES
from graftwork.adaptation.feature_extraction import FeatureExtraction
from graftwork.adaptation.lora import Lora, LoraSettings
from graftwork.adaptation.strategy import Delta
from graftwork.errors import SettingsInvalid

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone
    from graftwork.registry.artifact import Artifact
    from graftwork.training.config import TrainingConfig

_HEADER = 256  # a safetensors file of two to four tensors says no more before its numbers
_MANIFEST = 5_000  # a manifest without labels, tensors and metrics
# What the metrics of a class take in a manifest, and each pair of classes that may be confused. Measured: 1,477 bytes
# for 3 classes, 6,767 for 20 and 54,944 for 100.
_METRICS_OF_CLASS, _METRICS_OF_PAIR = 400, 3


def within_budget(
    backbone: Backbone, config: TrainingConfig, *, labels: Sequence[str], most_bytes: int
) -> tuple[TrainingConfig, str]:
    """The settings with the highest rank, and the finest dtype, whose adapter fits; and the sentence that says so.

    The rank is halved until it fits, its scale kept; float16 is taken where float32 was asked for and does not fit.
    With `auto` an adapter that has room for a head alone is a head alone.

    Args:
        backbone: what it will be trained on.
        config: what was asked for.
        labels: the labels of its head.
        most_bytes: all that is stored of it, manifest and metrics among it.

    Raises:
        SettingsInvalid: if nothing fits, or a strategy that cannot be sized was asked for.
    """
    if config.strategy not in ("auto", Lora.name, FeatureExtraction.name):
        raise SettingsInvalid(
            f"a budget of bytes cannot be kept by {config.strategy}",
            remedy=f"Take auto, {Lora.name} or {FeatureExtraction.name}.",
        )
    head = head_bytes(backbone, config, labels)
    if head > most_bytes:
        raise SettingsInvalid(
            f"a head of {len(labels)} classes takes about {head:,} bytes with its manifest; {most_bytes:,} are allowed",
            remedy="Allow more, or train fewer classes.",
        )
    if config.strategy == FeatureExtraction.name:
        return config, f"a head of about {head:,} bytes fits {most_bytes:,}"
    smallest = head
    for settings in _smaller(config.lora):
        smallest = head + size_of_delta(backbone, Lora.name, config.model_copy(update={"lora": settings}))
        if smallest <= most_bytes:
            told = f"rank {settings.rank} in {settings.store} takes about {smallest:,} bytes of {most_bytes:,}"
            return config.model_copy(update={"lora": settings}), told
    if config.strategy == "auto":
        told = f"a head alone: LoRA of rank 1 would take about {smallest:,} bytes of {most_bytes:,}"
        return config.model_copy(update={"strategy": FeatureExtraction.name}), told
    raise SettingsInvalid(
        f"LoRA of rank 1 takes about {smallest:,} bytes with its head; {most_bytes:,} are allowed",
        remedy=f"Allow more, adapt fewer modules (lora.layers, lora.targets), or take {FeatureExtraction.name}.",
    )


def check_budget(artifact: Artifact, most_bytes: int) -> None:
    """Refuse an artifact that is over its budget all the same.

    Raises:
        SettingsInvalid: if it is.
    """
    if artifact.size_bytes > most_bytes:
        raise SettingsInvalid(
            f"nothing was published: the adapter takes {artifact.size_bytes:,} bytes; {most_bytes:,} are allowed",
            remedy="Allow more, or ask for a smaller one (lora.rank, lora.layers).",
        )


def _smaller(asked: LoraSettings) -> Iterator[LoraSettings]:
    """What was asked for, and ever smaller ones."""
    rank = asked.rank
    while True:
        share = math.sqrt(rank / asked.rank) if asked.rslora else rank / asked.rank
        changed = asked.model_copy(update={"rank": rank, "alpha": asked.alpha * share})
        for store in dict.fromkeys((asked.store, "float16")):
            yield changed.model_copy(update={"store": store})
        if rank == 1:
            return
        rank //= 2


def _sizable(settings: LoraSettings) -> LoraSettings:
    """The same sizes without taking the base's weights apart: PiSSA is published in twice its rank."""
    if settings.init != "pissa":
        return settings
    patterns = {name: 2 * rank for name, rank in settings.rank_pattern.items()}
    return settings.model_copy(update={"init": "gaussian", "rank": 2 * settings.rank, "rank_pattern": patterns})


def _delta_bytes(delta: Delta) -> int:
    """Its files, and what the manifest says of them."""
    specs = sum(len(json.dumps(spec.model_dump(mode="json"))) for spec in delta.tensors)
    return sum(map(len, delta.files.values())) + specs


def size_of_delta(backbone: Backbone, strategy: str, config: TrainingConfig) -> int:
    """What LoRA's or a prefix's delta takes, and what the manifest says of it: its size follows from its settings.

    Args:
        backbone: what it will be trained on.
        strategy: its name.
        config: the settings.
    """
    settings = _sizable(config.lora) if strategy == Lora.name else config.settings_of(strategy)
    with STRATEGIES[strategy].attach(backbone, settings, seed=0) as attachment:
        return _delta_bytes(attachment.delta())


def head_bytes(backbone: Backbone, config: TrainingConfig, labels: Sequence[str]) -> int:
    """What an adapter without a delta takes, about: its head, its manifest and the metrics in it.

    Args:
        backbone: what it will be trained on.
        config: the settings.
        labels: the labels of its head.
    """
    classes, width = len(labels), backbone.width
    values = classes * (width + 1)
    if config.strategy == FeatureExtraction.name and config.feature_extraction.head == "mlp":
        hidden = config.feature_extraction.hidden
        values = hidden * (width + 1) + classes * (hidden + 1)
    names = sum(len(json.dumps(label)) for label in labels)
    metrics = _METRICS_OF_CLASS * classes + _METRICS_OF_PAIR * classes**2
    return _HEADER + 4 * values + _MANIFEST + 2 * names + metrics
