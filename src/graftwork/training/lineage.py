"""What a child starts from and is measured against: the adapter it stands on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load

from graftwork.adaptation.inference import head_logits, probabilities
from graftwork.data.classchecks import FEW_ROWS
from graftwork.errors import NotBetter, Problem, SettingsInvalid
from graftwork.evaluation.compare import paired_difference
from graftwork.evaluation.temperature import fit_temperature
from graftwork.registry.artifact import HEAD, Artifact
from graftwork.registry.chain import CHAINED
from graftwork.training.probe import Linear

if TYPE_CHECKING:
    from graftwork.evaluation.results import PairedDifference
    from graftwork.training.candidate import Candidate
    from graftwork.training.config import TrainingConfig
    from graftwork.training.probe import Probe
    from graftwork.training.rows import PreparedRows

PRIOR_PENALTIES = (300.0, 100.0, 30.0, 10.0)
"""Penalties so strong that a head hardly leaves the one it starts from; tried where there is one."""


def check_chained(config: TrainingConfig, parent: Artifact) -> None:
    """Refuse strategies whose changes do not add up with others'.

    Raises:
        SettingsInvalid: with every one that does not.
    """
    if parent.manifest.tasks:
        raise SettingsInvalid(
            "no adapter can be trained on top of one that answers several tasks",
            remedy="Train it on the base model, or on a parent of one task.",
        )
    made_by = {"strategy": config.strategy, "its parent's strategy": parent.manifest.strategy}
    problems = [
        Problem(where, f"is {name}, which cannot be part of a chain")
        for where, name in made_by.items()
        if name not in (*CHAINED, "auto")
    ]
    if problems:
        raise SettingsInvalid(
            "no adapter can be trained on top of another like this",
            problems=problems,
            remedy=f"Chains are made of {' and '.join(CHAINED)}, whose changes add up; others are trained on the base.",
        )


def head_of(parent: Artifact, labels: Sequence[str]) -> Linear | None:
    """The parent's calibrated head with a row for each of `labels`; those it does not know start at its average.

    None when it cannot be started from: no label is known to it, or it has a hidden layer.
    """
    manifest = parent.manifest
    if manifest.hidden or not set(labels) & set(manifest.labels):
        return None
    tensors = load(parent.files[HEAD])
    weight = tensors["head.weight"].double().numpy() / manifest.temperature
    bias = tensors["head.bias"].double().numpy() / manifest.temperature
    # What all classes have in common changes no probability; without it, nought is the average class.
    weight, bias = weight - weight.mean(axis=0), bias - bias.mean()
    place = {label: row for row, label in enumerate(manifest.labels)}
    own_weight, own_bias = np.zeros((len(labels), weight.shape[1])), np.zeros(len(labels))
    for row, label in enumerate(labels):
        if label in place:
            own_weight[row], own_bias[row] = weight[place[label]], bias[place[label]]
    return Linear(own_weight, own_bias)


def told_of_start(parent: Artifact, labels: Sequence[str]) -> str:
    """One sentence: what the head of a child starts from."""
    agreeing = len(set(labels) & set(parent.manifest.labels))
    if head_of(parent, labels) is None:
        return "a fresh head on the parent's features"
    return f"its head starts from the parent's ({agreeing} of {len(labels)} labels agree)"


def answers_of(parent: Artifact, features: torch.Tensor, labels: Sequence[str]) -> NDArray[np.float64] | None:
    """The parent's own probabilities `[rows, labels]` of `labels`; None when it does not know all of them.

    Args:
        parent: the parent.
        features: pooled vectors `[rows, width]` with its updates in place.
        labels: the child's labels.
    """
    known = parent.manifest.labels
    if not set(labels) <= set(known):
        return None
    logits = head_logits(parent, features)[:, [known.index(label) for label in labels]]
    return probabilities(logits, parent.manifest.temperature)


def refuse_if_worse(
    candidate: Candidate, probe: Probe, parents: NDArray[np.float64] | None, prepared: PreparedRows
) -> str:
    """Check that a child is not worse than its parent on rows it did not see; returns the sentence that says so.

    A head is judged by cross-validation on all rows, a delta on the validation rows; by log loss, which sees every row.

    Args:
        candidate: what would be published.
        probe: the probe on the parent's features.
        parents: the parent's probabilities `[rows, classes]`; None when it knows other labels.
        prepared: the rows.

    Raises:
        NotBetter: if it is; it says what would help.
    """
    if parents is None:
        return "its parent knows other labels, so the two were not compared"
    rows, logits = np.arange(len(prepared.labels)), probe.held_out_logits
    if candidate.delta.files or candidate.hidden is not None:
        rows, logits = prepared.validation, candidate.validation_logits
    truth = prepared.labels[rows]
    own = probabilities(logits, fit_temperature(logits, truth))
    found = paired_difference("log_loss", own, parents[rows], truth)
    told = f"on {len(rows)} rows it did not see its log loss differs from its parent's by {_interval(found)}"
    if found.difference.value > 0:
        raise NotBetter(
            f"nothing was published: {told}, so the parent answers better",
            problems=wanting(prepared),
            remedy=f"Label more rows ({FEW_ROWS} or more of each class, and about {2 * len(prepared.labels)} in all), "
            "or go on asking the parent.",
        )
    return told


def wanting(prepared: PreparedRows) -> list[Problem]:
    """The classes that have fewer rows than a class needs."""
    counts = np.bincount(prepared.labels, minlength=len(prepared.label_names))
    return [
        Problem(name, f"has {count} rows to train on; {FEW_ROWS} or more are needed")
        for name, count in zip(prepared.label_names, counts.tolist(), strict=True)
        if count < FEW_ROWS
    ]


def _interval(found: PairedDifference) -> str:
    gap = found.difference
    return f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"
