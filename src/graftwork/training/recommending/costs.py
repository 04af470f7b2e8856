"""What a candidate takes: seconds of training, bytes where it is stored, milliseconds of a request, peak memory."""

from __future__ import annotations

import math
import statistics
import time
from typing import TYPE_CHECKING

import torch

from graftwork.adaptation.feature_extraction import FeatureExtraction
from graftwork.adaptation.full import Full
from graftwork.adaptation.lora import Lora
from graftwork.adaptation.partial import Partial
from graftwork.adaptation.prefix import PrefixTuning
from graftwork.errors import ModelUnsupported, SettingsInvalid
from graftwork.training.budget import head_bytes, size_of_delta
from graftwork.training.plan import make_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graftwork.backbones.backbone import Backbone
    from graftwork.training.config import TrainingConfig
    from graftwork.training.rows import PreparedRows

PASSES = {FeatureExtraction.name: 0.0, Lora.name: 2.1, PrefixTuning.name: 2.0, Partial.name: 1.5, Full.name: 3.0}
"""Readings of a row that training on it once takes, by strategy: products of matrices as `make_plan` counts them."""
_ASKED = {FeatureExtraction.name: 0.0, Partial.name: 0.5}  # readings that an evaluation takes a row; 1 for others
# Gradients, their norm, AdamW and the copy into the model pass over every trained value in each step. What was left of
# full fine-tunes beside their products of matrices was 9 (22.7 M values) to 28 ns (117.5 M).
_SECONDS_A_VALUE = 15e-9
_REQUESTS = 5


def training_seconds(
    strategy: str, config: TrainingConfig, prepared: PreparedRows, *, reading: float, trained: int
) -> float:
    """Seconds of a whole run: one reading of all rows for the probe, then epochs and evaluations at the speed of it.

    Args:
        strategy: its name.
        config: the settings.
        prepared: the rows.
        reading: seconds that reading all of `prepared.rows` once takes.
        trained: values that are trained below the head.
    """
    tuning, learned = config.fine_tuning, len(prepared.train)
    share = learned / len(prepared.rows)
    passes = tuning.epochs * (PASSES[strategy] * share + _ASKED.get(strategy, 1.0) * (1 - share))
    steps = math.ceil(learned / tuning.batch_size) * tuning.epochs
    return reading * (1 + passes) + steps * trained * _SECONDS_A_VALUE


def trained_values(backbone: Backbone, strategy: str) -> int:
    """About how many values a strategy trains below the head; of small deltas none are counted."""
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in backbone.layers]
    if strategy == Partial.name:
        return sum(sizes[len(sizes) // 2 :])
    return sum(p.numel() for p in backbone.model.parameters()) if strategy == Full.name else 0


def stored_bytes(
    backbone: Backbone, strategy: str, config: TrainingConfig, *, labels: Sequence[str], tokens: int
) -> int:
    """About what an adapter takes where it is stored, manifest and metrics among it.

    Args:
        backbone: its base.
        strategy: its name.
        config: the settings.
        labels: of its head.
        tokens: different tokens in the rows: of embeddings only theirs change.
    """
    head = head_bytes(backbone, config, labels)
    if strategy == FeatureExtraction.name:
        return head
    if strategy in (Lora.name, PrefixTuning.name):
        return head + size_of_delta(backbone, strategy, config)
    store = config.partial.store if strategy == Partial.name else config.full.store
    bits = {"one-bit": 1, "float16": 16, "lossless": 32}[store]
    values = trained_values(backbone, Partial.name)
    if strategy == Full.name:
        layers = sum(p.numel() for layer in backbone.layers for p in layer.parameters())
        values = layers + tokens * backbone.width
    return head + values * bits // 8


def request_milliseconds(backbone: Backbone, texts: Sequence[str], *, max_length: int) -> float:
    """Milliseconds of one request of median length through the bare base, the median of several.

    Args:
        backbone: the base.
        texts: the rows.
        max_length: tokens kept of each.
    """
    ids = sorted(backbone.encode(texts[:200], max_length), key=len)
    batch = backbone.collate([ids[len(ids) // 2]])
    seconds = []
    with torch.inference_mode():
        for _ in range(_REQUESTS):
            began = time.perf_counter()
            backbone.forward(batch)
            seconds.append(time.perf_counter() - began)
    return round(1000 * statistics.median(seconds), 3)


def peak_memory(
    backbone: Backbone, strategy: str, config: TrainingConfig, prepared: PreparedRows, *, max_length: int
) -> int | None:
    """Peak bytes that training is planned to take; None for bases that plans are not made for.

    Args:
        backbone: the base.
        strategy: its name.
        config: the settings.
        prepared: the rows.
        max_length: tokens kept of each.
    """
    if backbone.tokenizer is None:
        return None
    lengths = [len(ids) for ids in backbone.encode(prepared.rows.texts, max_length)]
    classes = len(prepared.label_names)
    try:
        made = make_plan(
            backbone.model.config, config, strategy=strategy, lengths=lengths, classes=classes, dtype=backbone.dtype
        )
    except (ModelUnsupported, SettingsInvalid):
        return None
    return made.memory.peak
