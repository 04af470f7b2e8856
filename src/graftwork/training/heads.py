"""Candidates of which nothing is trained but the head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graftwork.adaptation.feature_extraction import FeatureExtraction
from graftwork.adaptation.strategy import Delta
from graftwork.errors import DataRejected, Problem
from graftwork.evaluation.temperature import fit_temperature
from graftwork.training.candidate import Candidate
from graftwork.training.mlp import fit_mlp

if TYPE_CHECKING:
    from graftwork.training.task import Task


def probe_candidate(task: Task, *, decision: str) -> Candidate:
    """The probe as it is, calibrated on logits that no row had a part in."""
    probe, prepared = task.probe, task.prepared
    return Candidate(
        strategy=FeatureExtraction.name,
        delta=Delta(task.backbone.num_layers, (), {}),
        weight=probe.weight,
        bias=probe.bias,
        temperature=probe.temperature(prepared.labels),
        validation_logits=probe.held_out_logits[prepared.validation],
        decision=decision,
    )


def mlp_candidate(task: Task) -> Candidate:
    """A head with a hidden layer, fitted on the training part and calibrated on the validation rows.

    Raises:
        DataRejected: if a label has no row to train on.
    """
    settings, prepared = task.config.feature_extraction, task.prepared
    train, validation = prepared.train, prepared.validation
    unseen = sorted(set(range(len(prepared.label_names))) - set(prepared.labels[train].tolist()))
    if unseen:
        raise DataRejected(
            f"{prepared.rows.source}: after rows were set aside, labels are left without a row to train on",
            problems=[Problem(prepared.label_names[index], "has only validation rows") for index in unseen],
            remedy="Label more rows of them, or take feature_extraction.head=logistic, which uses all rows.",
        )
    mlp = fit_mlp(
        task.features[train],
        prepared.labels[train],
        classes=len(prepared.label_names),
        hidden=settings.hidden,
        penalty=settings.alpha,
        seed=task.config.seed,
    )
    logits = mlp.logits(task.features[validation])
    return Candidate(
        strategy=FeatureExtraction.name,
        delta=Delta(task.backbone.num_layers, (), {}),
        weight=mlp.weight,
        bias=mlp.bias,
        temperature=fit_temperature(logits, prepared.labels[validation]),
        validation_logits=logits,
        decision="",
        hidden=(mlp.hidden_weight, mlp.hidden_bias),
    )
