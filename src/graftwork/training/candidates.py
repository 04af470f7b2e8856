"""Candidates for the adapter of a run, and the choice between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from graftwork.adaptation import STRATEGIES
from graftwork.adaptation.feature_extraction import FeatureExtraction
from graftwork.adaptation.inference import probabilities
from graftwork.adaptation.lora import Lora
from graftwork.adaptation.strategy import Delta
from graftwork.adaptation.weights import WeightsAttachment
from graftwork.data.findings import Finding
from graftwork.errors import DataRejected, Problem
from graftwork.evaluation.compare import paired_difference
from graftwork.evaluation.temperature import fit_temperature
from graftwork.training.activations import Activations
from graftwork.training.compression import compress
from graftwork.training.config import TrainingConfig
from graftwork.training.loop import fine_tune
from graftwork.training.mlp import fit_mlp
from graftwork.training.objective import class_weights
from graftwork.training.probe import Probe, fit_head
from graftwork.training.progress import Progress
from graftwork.training.rate_finder import find_rate
from graftwork.training.rows import PreparedRows
from graftwork.training.runs import Run

if TYPE_CHECKING:
    from graftwork.backbones.backbone import TextBackbone

_START_WAS_BEST = "as asked for, but no epoch was better on the validation rows than the probe's head it started from"
_TUNED_BY_AUTO = Lora.name
_FEWEST_ERRORS = 6  # rows that must be mended, and none broken, for McNemar's exact test to reach p < 0.05


@dataclass(frozen=True)
class Candidate:
    """A delta and a head that could be published.

    Attributes:
        strategy: the strategy's name.
        delta: what it trained below the head.
        weight: the head's weights `[classes, width]`.
        bias: the head's bias `[classes]`.
        temperature: divides the logits.
        validation_logits: logits `[validation rows, classes]`, before the temperature, of rows it was not trained on.
        decision: why this one, when it was chosen.
        hidden: weights `[hidden, width]` and bias `[hidden]` of the head's hidden layer, None when it is linear.
        learning_rate: highest rate it was trained with; None when nothing was but the head.
        warnings: what training warned of.
    """

    strategy: str
    delta: Delta
    weight: NDArray[np.floating]
    bias: NDArray[np.floating]
    temperature: float
    validation_logits: NDArray[np.float64]
    decision: str
    hidden: tuple[NDArray[np.floating], NDArray[np.floating]] | None = None
    learning_rate: float | None = None
    warnings: tuple[Finding, ...] = ()


def choose(
    backbone: TextBackbone,
    probe: Probe,
    features: NDArray[np.floating],
    prepared: PreparedRows,
    *,
    config: TrainingConfig,
    max_length: int,
    progress: Progress,
    run: Run,
) -> Candidate:
    """What was asked for; with `auto`, a fine-tuned delta if it beats the probe on the validation rows beyond chance.

    Args:
        backbone: the frozen backbone.
        probe: fitted on all rows of `prepared.rows`.
        features: pooled vectors of those rows.
        prepared: the rows.
        config: the settings.
        max_length: tokens kept of a text.
        progress: told of stages and steps.
        run: where checkpoints and measurements go.
    """
    if config.strategy == FeatureExtraction.name and config.feature_extraction.head == "logistic":
        return _probe_candidate(backbone, probe, prepared, decision="")
    if not len(prepared.validation):
        return _without_validation(backbone, probe, prepared, config)
    if config.strategy == "auto":
        wrong = int((probe.held_out_logits.argmax(axis=1) != prepared.labels)[prepared.validation].sum())
        if wrong < _FEWEST_ERRORS:
            decision = (
                f"feature extraction: its probe errs on only {wrong} of {len(prepared.validation)} validation rows, "
                "too few for any other strategy to be shown better"
            )
            return _probe_candidate(backbone, probe, prepared, decision=decision)
    if config.strategy == FeatureExtraction.name:
        return _mlp_candidate(backbone, features, prepared, config)
    name = dearest(config)
    tuned = _tuned_candidate(name, backbone, probe, features, prepared, config, max_length, progress, run)
    if config.strategy != "auto":
        return tuned
    plain = _probe_candidate(backbone, probe, prepared, decision="")
    pays, decision = _compare(tuned, plain, prepared)
    return replace(tuned if pays else plain, decision=decision)


def dearest(config: TrainingConfig) -> str:
    """The strategy that a run may come to train: with `auto`, what it compares with the probe."""
    return _TUNED_BY_AUTO if config.strategy == "auto" else config.strategy


def _probe_candidate(backbone: TextBackbone, probe: Probe, prepared: PreparedRows, *, decision: str) -> Candidate:
    """The probe as it is, calibrated on logits that no row had a part in."""
    return Candidate(
        strategy=FeatureExtraction.name,
        delta=Delta(backbone.num_layers, (), {}),
        weight=probe.weight,
        bias=probe.bias,
        temperature=probe.temperature(prepared.labels),
        validation_logits=probe.held_out_logits[prepared.validation],
        decision=decision,
    )


def _mlp_candidate(
    backbone: TextBackbone, features: NDArray[np.floating], prepared: PreparedRows, config: TrainingConfig
) -> Candidate:
    """A head with a hidden layer, fitted on the training part and calibrated on the validation rows."""
    settings = config.feature_extraction
    train, validation = prepared.train, prepared.validation
    unseen = sorted(set(range(len(prepared.label_names))) - set(prepared.labels[train].tolist()))
    if unseen:
        raise DataRejected(
            f"{prepared.rows.source}: after rows were set aside, labels are left without a row to train on",
            problems=[Problem(prepared.label_names[index], "has only validation rows") for index in unseen],
            remedy="Label more rows of them, or take feature_extraction.head=logistic, which uses all rows.",
        )
    mlp = fit_mlp(
        features[train],
        prepared.labels[train],
        classes=len(prepared.label_names),
        hidden=settings.hidden,
        penalty=settings.alpha,
        seed=config.seed,
    )
    logits = mlp.logits(features[validation])
    return Candidate(
        strategy=FeatureExtraction.name,
        delta=Delta(backbone.num_layers, (), {}),
        weight=mlp.weight,
        bias=mlp.bias,
        temperature=fit_temperature(logits, prepared.labels[validation]),
        validation_logits=logits,
        decision="",
        hidden=(mlp.hidden_weight, mlp.hidden_bias),
    )


def _without_validation(
    backbone: TextBackbone, probe: Probe, prepared: PreparedRows, config: TrainingConfig
) -> Candidate:
    told = f"no validation row is left of {len(prepared.rows)} training rows"
    if config.strategy != "auto":
        raise DataRejected(
            f"{prepared.rows.source}: {told}, so {config.strategy} could be neither stopped nor calibrated",
            remedy="Label more rows, or take feature-extraction, which needs none.",
        )
    return _probe_candidate(backbone, probe, prepared, decision=f"feature extraction: {told} to compare on")


def _tuned_candidate(
    name: str,
    backbone: TextBackbone,
    probe: Probe,
    features: NDArray[np.floating],
    prepared: PreparedRows,
    config: TrainingConfig,
    max_length: int,
    progress: Progress,
    run: Run,
) -> Candidate:
    train, validation = prepared.train, prepared.validation
    classes = len(prepared.label_names)
    # Not the probe's own head: that has seen the validation rows.
    weight, bias = fit_head(
        features[train], prepared.labels[train], classes=classes, penalty=probe.penalty, prior=probe.prior
    )
    ids = backbone.encode(prepared.rows.texts, max_length)
    strategy, settings = STRATEGIES[name], config.fine_tuning
    weights = class_weights(settings.class_weights, prepared.labels[train], prepared.label_names)

    def activations(rows: NDArray[np.int64], split: int) -> Activations:
        memory, folder = settings.cache_gb * 1e9, run.temporary_folder
        return Activations(backbone, [ids[row] for row in rows], split=split, memory=memory, folder=folder)

    with strategy.attach(backbone, config.settings_of(name), seed=config.seed) as attachment:
        given, held_out = activations(train, attachment.split), activations(validation, attachment.split)
        rate = config.learning_rate_of(name)
        if rate == "auto":
            rate = find_rate(
                backbone,
                attachment,
                weight=weight,
                bias=bias,
                train=given,
                train_labels=prepared.labels[train],
                settings=settings,
                seed=config.seed,
                progress=progress,
                class_weights=weights,
            ).rate
            progress.note(f"learning rate found: {rate:g}")
        tuned = fine_tune(
            backbone,
            attachment,
            weight=weight,
            bias=bias,
            train=given,
            train_labels=prepared.labels[train],
            validation=held_out,
            validation_labels=prepared.labels[validation],
            settings=settings,
            learning_rate=rate,
            seed=config.seed,
            progress=progress,
            class_weights=weights,
            run=run,
            stage=name,
        )
        decision = f"{strategy.title}, {_START_WAS_BEST}" if tuned.best_epoch == 0 else ""
        logits = tuned.validation_logits.double().numpy()
        if isinstance(attachment, WeightsAttachment) and tuned.best_epoch:
            compressed = compress(
                attachment,
                weight=tuned.weight.to(backbone.device),
                bias=tuned.bias.to(backbone.device),
                train=given,
                validation=held_out,
                seed=config.seed,
                progress=progress,
                recompute=settings.gradient_checkpointing,
            )
            logits = compressed.stored.double().numpy()
            decision = f"{strategy.title}, {compressed.cost(prepared.labels[validation])}"
        delta = attachment.delta()
    return Candidate(
        strategy=name,
        delta=delta,
        weight=tuned.weight.numpy(),
        bias=tuned.bias.numpy(),
        temperature=fit_temperature(logits, prepared.labels[validation]),
        validation_logits=logits,
        decision=decision,
        learning_rate=rate,
        warnings=(*_classes_not_validated(prepared, progress), *tuned.warnings),
    )


def _classes_not_validated(prepared: PreparedRows, progress: Progress) -> list[Finding]:
    missing = prepared.labels_not_validated
    if not missing:
        return []
    named = ", ".join(map(repr, missing[:5])) + (" …" if len(missing) > 5 else "")
    found = Finding(
        code="classes-not-validated",
        severity="warning",
        message=f"no validation row has the label {named}, so training was not stopped for its sake",
        count=len(missing),
        examples=missing[:5],
        remedy="Label more rows of it, or raise validation_share.",
    )
    progress.note(f"warning: {found.message}. {found.remedy}")
    return [found]


def _compare(tuned: Candidate, plain: Candidate, prepared: PreparedRows) -> tuple[bool, str]:
    """Whether fine-tuning pays, and the sentence that says why."""
    title = STRATEGIES[tuned.strategy].title
    truth = prepared.labels[prepared.validation]
    ours, theirs = (probabilities(c.validation_logits, c.temperature) for c in (tuned, plain))
    accuracy = paired_difference("accuracy", ours, theirs, truth)
    loss = paired_difference("log_loss", ours, theirs, truth)
    gain, saved = accuracy.difference, loss.difference
    measured = (
        f"on {len(truth)} validation rows {title}'s accuracy is {gain.value:+.1%} [{gain.low:+.1%}, {gain.high:+.1%}] "
        f"and its log loss {saved.value:+.3f} [{saved.low:+.3f}, {saved.high:+.3f}] against the probe's"
    )
    pays = loss.better == "a" and gain.value >= 0
    if pays:
        return True, f"{title}: {measured}"
    return False, f"feature extraction: {title} does not pay; {measured}"
