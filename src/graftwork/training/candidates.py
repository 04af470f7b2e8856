"""The choice between candidates for the adapter of a run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from graftwork.adaptation import STRATEGIES
from graftwork.adaptation.feature_extraction import FeatureExtraction
from graftwork.adaptation.inference import probabilities
from graftwork.adaptation.lora import Lora
from graftwork.adaptation.partial import Partial
from graftwork.backbones.targets import has_linear_layers
from graftwork.errors import DataRejected
from graftwork.evaluation.compare import paired_difference
from graftwork.training.candidate import Candidate
from graftwork.training.heads import mlp_candidate, probe_candidate
from graftwork.training.tuned import tuned_candidate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from graftwork.backbones.backbone import Backbone
    from graftwork.training.config import TrainingConfig
    from graftwork.training.progress import Progress
    from graftwork.training.rows import PreparedRows
    from graftwork.training.runs import Run
    from graftwork.training.task import Task

_TUNED_BY_AUTO = Lora.name
_FEWEST_ERRORS = 6  # rows that must be mended, and none broken, for McNemar's exact test to reach p < 0.05


def choose(task: Task, *, progress: Progress, run: Run) -> Candidate:
    """What was asked for; with `auto`, a fine-tuned delta if it beats the probe on the validation rows beyond chance.

    Args:
        task: what candidates are made from.
        progress: told of stages and steps.
        run: where checkpoints and measurements go.
    """
    config, prepared, probe = task.config, task.prepared, task.probe
    if config.strategy == FeatureExtraction.name and config.feature_extraction.head == "logistic":
        return probe_candidate(task, decision="")
    if not len(prepared.validation):
        return _without_validation(task)
    if config.strategy == "auto":
        wrong = int((probe.held_out_logits.argmax(axis=1) != prepared.labels)[prepared.validation].sum())
        if wrong < _FEWEST_ERRORS:
            decision = (
                f"feature extraction: its probe errs on only {wrong} of {len(prepared.validation)} validation rows, "
                "too few for any other strategy to be shown better"
            )
            return probe_candidate(task, decision=decision)
    if config.strategy == FeatureExtraction.name:
        return mlp_candidate(task)
    tuned = tuned_candidate(tuned_strategy(config, task.backbone), task, progress=progress, run=run)
    if config.strategy != "auto":
        return tuned
    plain = probe_candidate(task, decision="")
    pays, decision = _compare(tuned, plain, prepared)
    return replace(tuned if pays else plain, decision=decision)


def dearest(config: TrainingConfig) -> str:
    """The strategy that a run may come to train: with `auto`, what it compares with the probe."""
    return _TUNED_BY_AUTO if config.strategy == "auto" else config.strategy


def tuned_strategy(config: TrainingConfig, backbone: Backbone) -> str:
    """The same on this backbone: a convolutional network has no place for low-rank updates."""
    if config.strategy == "auto" and not has_linear_layers(backbone):
        return Partial.name
    return dearest(config)


def _without_validation(task: Task) -> Candidate:
    rows, strategy = task.prepared.rows, task.config.strategy
    told = f"no validation row is left of {len(rows)} training rows"
    if strategy != "auto":
        raise DataRejected(
            f"{rows.source}: {told}, so {strategy} could be neither stopped nor calibrated",
            remedy="Label more rows, or take feature-extraction, which needs none.",
        )
    return probe_candidate(task, decision=f"feature extraction: {told} to compare on")


def _compare(tuned: Candidate, plain: Candidate, prepared: PreparedRows) -> tuple[bool, str]:
    """Whether fine-tuning pays, and the sentence that says why."""
    truth = prepared.labels[prepared.validation]
    ours, theirs = (probabilities(c.validation_logits, c.temperature) for c in (tuned, plain))
    return whether_it_pays(tuned.strategy, ours, theirs, truth, on="validation rows", than="the probe's")


def whether_it_pays(
    strategy: str,
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
    truth: NDArray[np.int64],
    *,
    on: str,
    than: str,
) -> tuple[bool, str]:
    """Whether fine-tuning beats the probe beyond chance, and the sentence that says why.

    Args:
        strategy: that was fine-tuned by.
        ours: its probabilities `[rows, classes]`.
        theirs: the probe's.
        truth: class indices `[rows]`.
        on: what the rows are called.
        than: what `theirs` are called.
    """
    title = STRATEGIES[strategy].title
    accuracy = paired_difference("accuracy", ours, theirs, truth)
    loss = paired_difference("log_loss", ours, theirs, truth)
    gain, saved = accuracy.difference, loss.difference
    measured = (
        f"on {len(truth)} {on} {title}'s accuracy is {gain.value:+.1%} [{gain.low:+.1%}, {gain.high:+.1%}] "
        f"and its log loss {saved.value:+.3f} [{saved.low:+.3f}, {saved.high:+.3f}] against {than}"
    )
    pays = loss.better == "a" and gain.value >= 0
    if pays:
        return True, f"{title}: {measured}"
    return False, f"feature extraction: {title} does not pay; {measured}"
