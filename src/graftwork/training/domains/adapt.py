"""The ways to adapt to unlabelled rows, and the choice among them without labels of the target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from graftwork.adaptation.feature_extraction import FeatureExtraction
from graftwork.adaptation.inference import probabilities
from graftwork.adaptation.lora import Lora
from graftwork.data.unlabelled import usable_rows
from graftwork.errors import DataRejected, Problem, SettingsInvalid
from graftwork.training.candidates import choose
from graftwork.training.domains.choice import Considered, chosen_by_scores
from graftwork.training.domains.game import DomainGame
from graftwork.training.domains.pretraining import check_maskable, pretrained
from graftwork.training.domains.pseudo import self_trained
from graftwork.training.domains.scores import effective_rows, importance_weights
from graftwork.training.domains.shift import domain_scores, shift_report
from graftwork.training.domains.target import Target
from graftwork.training.domains.unfreezing import unfrozen_gradually
from graftwork.training.processes import processes
from graftwork.training.tuned import tuned_candidate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from graftwork.data.dataset import Dataset
    from graftwork.data.findings import Finding
    from graftwork.training.candidate import Candidate
    from graftwork.training.config import TrainingConfig
    from graftwork.training.domains.settings import Method
    from graftwork.training.domains.shift import ShiftReport
    from graftwork.training.progress import Progress
    from graftwork.training.rows import PreparedRows
    from graftwork.training.runs import Run
    from graftwork.training.start import Start
    from graftwork.training.task import Task

TITLES: dict[Method, str] = {
    "none": "no adaptation",
    "gradual-unfreezing": "gradual unfreezing",
    "adversarial": "adversarial training",
    "self-training": "self-training",
    "continued-pretraining": "continued pretraining",
}


@dataclass(frozen=True)
class Adapted:
    """What came of it.

    Attributes:
        candidate: what is published.
        method: how it was adapted.
        shift: what lay between the domains before.
        considered: every method that was tried, with its scores.
    """

    candidate: Candidate
    method: Method
    shift: ShiftReport
    considered: tuple[Considered, ...]


def check_adaptation(config: TrainingConfig) -> None:
    """Refuse settings that contradict each other before anything is read or computed.

    Raises:
        SettingsInvalid: with every contradiction.
    """
    method, strategy, problems = config.adaptation, config.strategy, []
    below = ("gradual-unfreezing", "adversarial", "continued-pretraining")
    if method in below and strategy == FeatureExtraction.name:
        problems.append(Problem("adaptation", f"{method} trains layers, and feature-extraction trains none of them"))
    if method == "continued-pretraining" and strategy not in ("auto", Lora.name):
        problems.append(Problem("adaptation", f"continued-pretraining is done by a LoRA, and the strategy is {strategy}"))
    if processes().count > 1:
        problems.append(Problem("adaptation", "runs in one process alone, and this run has several"))
    if problems:
        raise SettingsInvalid(
            "this adaptation cannot be done with these settings",
            problems=problems,
            remedy="Take --strategy lora, or --adaptation self-training, which goes with every strategy.",
        )


def prepare_target(adapt_to: Dataset, rows: Dataset, prepared: PreparedRows) -> tuple[Dataset, list[Finding]]:
    """The usable unlabelled rows, and what was found about them.

    Raises:
        DataRejected: if there are too few, or they are of another script; or no labelled row is left to validate on.
    """
    if not len(prepared.validation):
        raise DataRejected(
            f"{rows.source}: no validation row is left, so no adaptation could be judged",
            remedy="Label more rows.",
        )
    return usable_rows(adapt_to, rows, prepared.test)


def adapt(task: Task, rows: Dataset, *, progress: Progress, run: Run) -> Adapted:
    """Tell the shift, adapt as asked for, and with `auto` take the method that the scores favour.

    Args:
        task: the labelled rows.
        rows: usable unlabelled rows.
        progress: told of stages and steps.
        run: where checkpoints and measurements go.

    Raises:
        SettingsInvalid: if the method does not fit the base.
        TrainingInterrupted: if the run was asked to stop.
    """
    config = task.config
    progress.stage("reading unlabelled texts", len(rows))
    features = task.backbone.embed(rows.texts, max_length=task.max_length, progress=progress.advance).numpy()
    target = Target(rows, features)
    progress.stage("comparing the domains", None)
    shift = shift_of(task, target)
    for sentence in shift.told:
        progress.note(sentence)
    wanted = config.adaptation
    source_only = None
    if wanted in ("auto", "none", "self-training"):
        source_only = choose(task, progress=progress, run=run)
    tried: dict[Method, tuple[Candidate, str]] = {}
    if source_only is not None and wanted != "self-training":
        tried["none"] = (source_only, "")
    for method in _methods(task, source_only):
        if method != "none":
            progress.note(f"adapting by {TITLES[method]}")
            tried[method] = _adapted_by(method, task, target, source_only, progress=progress, run=run)
    weights = _weights(task, target)
    considered = chosen_by_scores(
        {method: target.answers(task, candidate) for method, (candidate, _) in tried.items()},
        {
            method: probabilities(candidate.validation_logits, candidate.temperature)
            for method, (candidate, _) in tried.items()
        },
        task.prepared.labels[task.prepared.validation],
        weights,
    )
    taken = considered.method
    candidate, told = tried[taken]
    sentences = [candidate.decision, f"{TITLES[taken]}{f' ({told})' if told else ''}"]
    if wanted == "auto":
        sentences.append(considered.told)
    decision = ". ".join(filter(None, sentences))
    return Adapted(replace(candidate, decision=decision), taken, shift, considered.all)


def shift_of(task: Task, target: Target) -> ShiftReport:
    """What lies between the labelled rows of a task and the target."""
    prepared = task.prepared
    return shift_report(
        task.backbone,
        source_texts=prepared.rows.texts,
        source_features=task.features,
        labels=prepared.labels,
        label_names=prepared.label_names,
        probe=task.probe,
        target_texts=target.rows.texts,
        target_features=target.features,
        max_length=task.max_length,
        permutations=task.config.domains.permutations,
        seed=task.config.seed,
    )


def _weights(task: Task, target: Target) -> NDArray[np.float64]:
    """Importance of each validation row for the target."""
    scores = domain_scores(task.features, target.features, seed=task.config.seed)
    weights = importance_weights(scores[: len(task.features)], (len(task.features), len(target.features)))
    chosen: NDArray[np.float64] = weights[task.prepared.validation]
    return chosen


def _methods(task: Task, source_only: Candidate | None) -> list[Method]:
    wanted = task.config.adaptation
    if wanted == "none":
        return ["none"]
    if wanted is not None and wanted != "auto":
        return [wanted]
    assert source_only is not None
    if source_only.strategy == FeatureExtraction.name:
        return ["none", "self-training"]
    methods: list[Method] = ["none", "gradual-unfreezing", "adversarial", "self-training"]
    if source_only.strategy == Lora.name and task.backbone.tokenizer.mask_id is not None:
        methods.append("continued-pretraining")
    return methods


def _adapted_by(
    method: Method, task: Task, target: Target, source_only: Candidate | None, *, progress: Progress, run: Run
) -> tuple[Candidate, str]:
    if method == "self-training":
        assert source_only is not None
        return self_trained(source_only, task, target, progress=progress, run=run)
    strategy = task.config.strategy if source_only is None else source_only.strategy
    strategy = Lora.name if strategy == "auto" else strategy
    told: list[str] = []
    changes = {
        "gradual-unfreezing": lambda start, _: unfrozen_gradually(start),
        "adversarial": partial(_against, task=task, target=target, run=run, told=told),
        "continued-pretraining": partial(
            pretrained,
            task=task,
            texts=[*(task.prepared.rows.texts), *target.rows.texts],
            progress=progress,
            run=run,
        ),
    }
    if method == "continued-pretraining":
        check_maskable(task.backbone)
        told.append("a head for masked tokens was made over the base's embeddings")
    stage = f"{strategy}-{method}"
    candidate = tuned_candidate(strategy, task, progress=progress, run=run, change=changes[method], stage=stage)
    return candidate, "; ".join(told)


def _against(start: Start, _rate: float, *, task: Task, target: Target, run: Run, told: list[str]) -> Start:
    """The start with a game against a classifier of domains."""
    settings, domains = start.settings, task.config.domains
    steps = -(-len(start.train.labels) // settings.batch_size) * settings.epochs
    game = DomainGame(
        start.attachment,
        target.activations(task, start.attachment.split, run.temporary_folder),
        task.features[task.prepared.train],
        hidden=domains.hidden,
        reversal=domains.reversal,
        total_steps=steps,
        seed=start.seed,
        device=start.backbone.device,
    )
    told.append(f"reversal up to {domains.reversal:g}")
    return replace(start, game=game)


__all__ = ["Adapted", "adapt", "check_adaptation", "effective_rows", "prepare_target", "shift_of"]
