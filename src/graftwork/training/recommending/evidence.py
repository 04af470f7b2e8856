"""Evidence from frozen features: transferability scores, and a probe by cross-validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from graftwork.backbones.backbone import length_sorted_batches
from graftwork.backbones.onnx_network import is_graph
from graftwork.evaluation.intervals import wilson_limits
from graftwork.evaluation.results import Interval
from graftwork.evaluation.transferability import h_score, log_me, nearest_neighbour_accuracy
from graftwork.training.probe import Probe, fit_probe
from graftwork.training.recommending.results import Evidence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graftwork.backbones.backbone import Backbone
    from graftwork.training.config import TrainingConfig
    from graftwork.training.recommending.clock import Budget
    from graftwork.training.rows import PreparedRows

_SCORED = 500  # rows that the scores are taken on: they order bases, and the probe measures


@dataclass(frozen=True)
class Features:
    """Vectors of texts by a frozen base.

    Attributes:
        top: pooled last hidden states, float32 `[texts, width]`: what heads stand on.
        averaged: mean over the layers' pooled states, float32 of the same shape; `top` where layers differ in width.
    """

    top: NDArray[np.float32]
    averaged: NDArray[np.float32]


def read_features(backbone: Backbone, texts: Sequence[str], *, max_length: int, budget: Budget) -> Features:
    """Read texts through a base once.

    Args:
        backbone: the base.
        texts: the texts, or media.
        max_length: tokens kept of each.
        budget: is asked after each batch.

    Raises:
        OutOfTime: if the budget is used up before the end.
    """
    ids = backbone.encode(texts, max_length)
    top = torch.empty((len(ids), backbone.width))
    averaged = torch.empty_like(top)
    for rows in length_sorted_batches([len(tokens) for tokens in ids], backbone.batch_tokens):
        batch = backbone.collate([ids[row] for row in rows])
        with torch.inference_mode():
            if is_graph(backbone):
                top[rows] = averaged[rows] = backbone.pool(backbone.forward(batch), batch.attention_mask).cpu()
                budget.check()
                continue
            states = backbone.states(batch)
            top[rows] = backbone.pool(states[-1], batch.attention_mask).cpu()
            alike = [state for state in states if state.shape == states[-1].shape]
            pooled = [backbone.pool(state, batch.attention_mask).cpu() for state in alike]
            averaged[rows] = torch.stack(pooled).mean(dim=0)
        budget.check()
    return Features(top.numpy(), averaged.numpy())


def fitted_probe(features: Features, prepared: PreparedRows, config: TrainingConfig) -> Probe:
    """The probe that `graft train` would fit on these rows."""
    return fit_probe(
        features.top,
        prepared.labels,
        prepared.groups,
        classes=len(prepared.label_names),
        penalties=config.feature_extraction.penalties,
        folds=config.feature_extraction.folds,
        seed=config.seed,
    )


def evidence_of(features: Features, probe: Probe, prepared: PreparedRows, *, seconds: float) -> Evidence:
    """What features and probe say.

    Args:
        features: of `prepared.rows`.
        probe: fitted on them.
        prepared: the rows.
        seconds: that both took.
    """
    labels, classes = prepared.labels, len(prepared.label_names)
    scored = np.random.default_rng(0).permutation(len(labels))[:_SCORED]
    averaged = features.averaged[scored].astype(np.float64)
    right = int((probe.held_out_logits.argmax(axis=1) == labels).sum())
    low, high = wilson_limits(np.array([right]), np.array([len(labels)]), 0.95)
    return Evidence(
        rows=len(labels),
        accuracy=Interval.of(right / len(labels), float(low[0]), float(high[0])),
        log_me=round(log_me(averaged, labels[scored], classes=classes), 6),
        h_score=round(h_score(averaged, labels[scored], classes=classes), 6),
        neighbours=round(nearest_neighbour_accuracy(averaged, labels[scored], classes=classes), 6),
        seconds=round(seconds, 3),
    )
