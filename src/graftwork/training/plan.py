"""What a run will take, told before it: parameters, memory by part, and time.

The network is taken from its configuration alone, without values. The strategy is attached to it and one batch is run
forwards and backwards, and what autograd keeps for the way back, what is alive at each moment and the products of
matrices are counted: no formula of an architecture is copied, so a plan holds for whatever the strategy changes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from graftwork.adaptation.feature_extraction import FeatureExtractionSettings
from graftwork.adaptation.partial import Partial
from graftwork.backbones.unloaded import UnloadedModel, without_values
from graftwork.errors import SettingsInvalid
from graftwork.training.config import TrainingConfig
from graftwork.training.plan_counts import Counts, Shape, count

_MASTER_BYTES = 4  # trained values, their gradients and AdamW's two moments are float32
_MEASURED_SECONDS = 0.2


@dataclass(frozen=True)
class Memory:
    """Bytes by part, and the most that are there at once.

    Attributes:
        weights: the frozen base.
        trained: what is trained, float32.
        gradients: its gradients.
        optimizer: AdamW's two moments.
        best: the copy of the best values so far.
        anchor: the values that a penalty pulls towards, and with `ewc` the Fisher information of each.
        activations: what a batch keeps for the way back, at the longest texts.
        cache: the trunk's activations of all rows, unless they go to a file.
        peak: the most at once in the whole run: not all parts are there at the same time, and values in passing are.
    """

    weights: int
    trained: int
    gradients: int
    optimizer: int
    best: int
    anchor: int
    activations: int
    cache: int
    peak: int


@dataclass(frozen=True)
class Work:
    """Operations of matrix products, products and sums, by part.

    Attributes:
        tokens: of all rows that are not held out for the judgement.
        learned: of those that a delta is trained on; the rest validate.
        epochs: that are run; a part of one where that is an expectation.
        whole: operations a token of the base's forward.
        tail: the same of the adapted layers' forward.
        step: the same of the adapted layers, forwards and backwards; 0 when nothing but the head is trained.
        signs: what was trained is stored as signs, whose scales are trained after it.
        searched: what looking for the split may take.
        kept: what was trained is kept; where the start was better, nothing is compressed and one judgement is made.
    """

    tokens: int
    learned: int
    epochs: float
    whole: float
    tail: float
    step: float
    signs: bool
    searched: int
    kept: bool = True

    @property
    def reading(self) -> float:
        """All rows through the base, for the probe."""
        return self.tokens * self.whole

    @property
    def trunk(self) -> float:
        """All rows through the layers below the adapted ones, once."""
        return self.tokens * (self.whole - self.tail) if self.step else 0.0

    @property
    def epoch(self) -> float:
        """The optimizer steps of an epoch."""
        return self.learned * self.step

    @property
    def evaluation(self) -> float:
        """The validation rows through the adapted layers."""
        return (self.tokens - self.learned) * self.tail if self.step else 0.0

    @property
    def scaling(self) -> float:
        """Training the scales of signs: a pass over the training rows, forwards and backwards."""
        return self.epoch if self.signs and self.kept else 0.0

    @property
    def comparing(self) -> float:
        """Answers before and after the scales were trained: training rows once, validation rows thrice."""
        return self.learned * self.tail + 3 * self.evaluation if self.signs and self.kept else 0.0

    @property
    def total(self) -> int:
        """Of the whole run at most, judgement aside."""
        trained = self.epochs * self.epoch + (self.epochs + 1) * self.evaluation
        return round(self.reading + self.trunk + trained + self.scaling + self.comparing) + self.searched


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Attributes:
        strategy: what is trained.
        parameters: of the base.
        trainable: values that are trained, the head among them.
        head: values of the head.
        width: of the base.
        layers: of the base.
        split: first adapted layer.
        rows: rows that are not held out for the judgement; a share of them validates.
        tokens: of all these rows together.
        longest: tokens of the longest row.
        steps: optimizer steps at most.
        batch_size: rows of an optimizer step.
        memory: bytes by part.
        work: operations by part.
    """

    strategy: str
    parameters: int
    trainable: int
    head: int
    width: int
    layers: int
    split: int
    rows: int
    tokens: int
    longest: int
    steps: int
    batch_size: int
    memory: Memory
    work: Work

    @property
    def pace(self) -> str:
        """What the speed of its optimizer steps depends on, beside base and texts: strategy and rows of a step."""
        return f"{self.strategy}, {self.batch_size} rows"

    @property
    def flops(self) -> int:
        """Products and sums of matrix products of the whole run at most."""
        return self.work.total

    def stopped_after(self, epochs: float | None, *, kept: bool = True) -> Plan:
        """The same run, stopped after so many epochs; as it is for None, or when no epoch is planned.

        Args:
            epochs: that are run.
            kept: whether what was trained was better than its start.
        """
        if epochs is None or not self.steps:
            return self
        work = replace(self.work, epochs=epochs, kept=kept)
        return replace(self, work=work, steps=round(self.steps / self.work.epochs * epochs))

    def seconds(self, flops_per_second: float) -> float:
        """The matrix products alone at this rate: the run takes longer, by what lies between them."""
        return self.flops / flops_per_second


def make_plan(
    model: Any, config: TrainingConfig, *, strategy: str, lengths: Sequence[int], classes: int, dtype: torch.dtype
) -> Plan:
    """Plan a run of a strategy.

    Args:
        model: transformers' configuration of the base; no weights are read.
        config: the settings.
        strategy: a name of `STRATEGIES`; not `auto`.
        lengths: tokens of each row that is not held out for the judgement, special tokens included.
        classes: number of classes.
        dtype: of the frozen base.

    Raises:
        ModelUnsupported: if the base is no text model.
        SettingsInvalid: if the settings or the lengths do not fit it.
    """
    tuning = config.fine_tuning
    settings = config.settings_of(strategy)
    shape = Shape(
        rows=tuning.micro_batch_size or tuning.batch_size,
        common=math.ceil(np.mean(lengths)),
        longest=max(lengths),
        classes=classes,
    )
    with without_values():
        unloaded = UnloadedModel(model, dtype=dtype, bits=config.base_dtype)
        limit = int(getattr(model, "max_position_embeddings", None) or max(lengths))
        if max(lengths) > limit:
            raise SettingsInvalid(
                f"the longest text has {max(lengths)} tokens; the base reads {limit}",
                remedy="Plan with fewer tokens: longer texts are cut.",
            )
        counts, backbone = count(unloaded, strategy, settings, shape, recompute=tuning.gradient_checkpointing)
    head = _head(settings, classes, backbone.width)
    trainable = counts.trained + head
    steps = math.ceil(_trained_rows(lengths, config) / tuning.batch_size) * tuning.epochs if counts.trained else 0
    cached = sum(lengths) * backbone.width * dtype.itemsize if counts.trained and counts.split else 0
    return Plan(
        strategy=strategy,
        parameters=counts.parameters,
        trainable=trainable,
        head=head,
        width=backbone.width,
        layers=backbone.num_layers,
        split=counts.split,
        rows=len(lengths),
        tokens=sum(lengths),
        longest=max(lengths),
        steps=steps,
        batch_size=tuning.batch_size,
        memory=_memory(
            counts,
            trainable,
            cache=cached if cached <= tuning.cache_gb * 1e9 else 0,
            anchors={"l2-sp": 1, "ewc": 2}.get(config.forgetting.protection or "none", 0),
        ),
        work=_work(counts, shape, lengths, strategy, config),
    )


def matrix_rate(width: int, rows: int = 1024) -> float:
    """Products and sums a second that this machine reaches in a product `[rows, width] x [width, 4 width]`, float32."""
    left, right = torch.randn(rows, width), torch.randn(width, 4 * width)
    left @ right
    start, times = time.perf_counter(), 0
    while time.perf_counter() - start < _MEASURED_SECONDS:
        left @ right
        times += 1
    return times * 8 * rows * width**2 / (time.perf_counter() - start)


def _head(settings: object, classes: int, width: int) -> int:
    if isinstance(settings, FeatureExtractionSettings) and settings.head == "mlp":
        return settings.hidden * (width + 1) + classes * (settings.hidden + 1)
    return classes * (width + 1)


def _memory(counts: Counts, trainable: int, *, cache: int, anchors: int) -> Memory:
    """Bytes by part; `anchors` is how many values a penalty keeps of each that is trained."""
    trained = _MASTER_BYTES * trainable
    if not counts.trained:
        peak = counts.weights + counts.reading
        return Memory(counts.weights, trained, trained, 0, 0, anchor=0, activations=0, cache=0, peak=peak)
    there = counts.weights + cache + trained  # from the first step to the last evaluation
    anchor = anchors * trained
    kept = 3 * trained + anchor  # AdamW's two moments, and the best values
    moments = {
        "reading": counts.weights + counts.reading,
        "filling the cache": there + counts.reading,
        "a step": there + kept + max(counts.upper, counts.lower),
        # On the CPU AdamW takes one tensor after the other, and makes two of its size in passing.
        "its end": there + kept + trained + 2 * _MASTER_BYTES * counts.largest,
        "an evaluation": there + kept + counts.evaluating,
        "the best values anew": there + kept + trained,
        "a checkpoint": there + kept + 3 * trained,
    }
    return Memory(
        weights=counts.weights,
        trained=trained,
        gradients=trained,
        optimizer=2 * trained,
        best=trained,
        anchor=anchor,
        activations=counts.kept,
        cache=cache,
        peak=max(moments.values()),
    )


def _trained_rows(lengths: Sequence[int], config: TrainingConfig) -> int:
    return len(lengths) - round(len(lengths) * config.validation_share)


def _work(counts: Counts, shape: Shape, lengths: Sequence[int], strategy: str, config: TrainingConfig) -> Work:
    """All rows through the base for the probe; then trunk once, and tail for every epoch and validation."""
    tokens, run = sum(lengths), shape.rows * shape.common
    settings = config.settings_of(strategy)
    return Work(
        tokens=tokens,
        learned=tokens * _trained_rows(lengths, config) // len(lengths),
        epochs=config.fine_tuning.epochs,
        whole=counts.whole / run,
        tail=counts.tail / run,
        step=counts.step / run if counts.trained else 0.0,
        signs=getattr(settings, "store", "") == "one-bit",
        searched=_searched(strategy, config),
    )


def _searched(strategy: str, config: TrainingConfig) -> int:
    """What looking for the split may take."""
    settings = config.partial
    wanted = strategy == Partial.name and settings.freeze_layers == "auto"
    return round(settings.budget * settings.gflops * 1e9) if wanted else 0
