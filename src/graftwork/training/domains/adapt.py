"""The ways to adapt to unlabelled rows, and the choice among them without labels of the target."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from graftwork.adaptation.feature_extraction import FeatureExtraction
from graftwork.adaptation.inference import probabilities
from graftwork.adaptation.lora import Lora
from graftwork.data.media import PLURALS
from graftwork.data.unlabelled import as_line, usable_rows
from graftwork.errors import DataRejected, Problem, SettingsInvalid
from graftwork.registry.manifest import AdaptationRecord
from graftwork.training.candidates import choose, tuned_strategy
from graftwork.training.domains.choice import Choice, chosen_by_scores
from graftwork.training.domains.game import DomainGame
from graftwork.training.domains.pretraining import check_maskable, pretrained
from graftwork.training.domains.pseudo import self_trained
from graftwork.training.domains.scores import importance_weights
from graftwork.training.domains.shift import domain_scores, shift_report
from graftwork.training.domains.target import Target
from graftwork.training.domains.unfreezing import unfrozen_gradually
from graftwork.training.processes import processes
from graftwork.training.tuned import tuned_candidate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from graftwork.data.dataset import Dataset
    from graftwork.data.findings import Finding
    from graftwork.data.media import Modality
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
_BELOW_THE_HEAD = ("gradual-unfreezing", "adversarial", "continued-pretraining")


class Domain:
    """The unlabelled rows of a run, and what became of them.

    Args:
        rows: the usable rows.
        digest: of the rows as they were read.
        findings: what was found about them.

    Attributes:
        warnings: the findings that are kept in the manifest.
        record: how it was adapted; None before.
    """

    def __init__(self, rows: Dataset, digest: str, findings: Sequence[Finding]) -> None:
        self._rows = rows
        self._digest = digest
        self.warnings = tuple(one for one in findings if one.severity == "warning")
        self.record: AdaptationRecord | None = None

    @classmethod
    def of(cls, adapt_to: Dataset, rows: Dataset, prepared: PreparedRows, progress: Progress) -> Domain:
        """Take the usable rows and tell what was found about the others.

        Args:
            adapt_to: unlabelled rows as they were read.
            rows: labelled rows as they were read.
            prepared: what is made of these.
            progress: told of findings.

        Raises:
            DataRejected: if there are too few, they are of another script, or no labelled row is left to validate on.
        """
        if not len(prepared.validation):
            raise DataRejected(
                f"{rows.source}: no validation row is left, so no adaptation could be judged",
                remedy="Label more rows.",
            )
        given = None if prepared.test_held_out else prepared.test
        usable, findings = usable_rows(adapt_to, rows, given)
        for one in findings:
            progress.note(as_line(one))
        if prepared.test_held_out and len(prepared.test):
            progress.note("what is judged on are rows of the labelled domain; --test judges on the target")
        return cls(usable, adapt_to.digest, findings)

    def adapt(self, task: Task, *, progress: Progress, run: Run) -> Candidate:
        """Tell the shift, adapt as asked for, and with `auto` take the method that the scores favour.

        Args:
            task: the labelled rows.
            progress: told of stages and steps.
            run: where checkpoints and measurements go.

        Raises:
            SettingsInvalid: if the method does not fit the base.
            TrainingInterrupted: if the run was asked to stop.
        """
        progress.stage(f"reading unlabelled {PLURALS[self._rows.modality]}", len(self._rows))
        texts = self._rows.texts
        features = task.backbone.embed(texts, max_length=task.max_length, progress=progress.advance).numpy()
        target = Target(self._rows, features)
        progress.stage("comparing the domains", None)
        shift = _shift(task, target)
        for sentence in shift.told:
            progress.note(sentence)
        tried = _tried(task, target, progress=progress, run=run)
        choice = _choice(task, target, tried)
        candidate, told = tried[choice.method]
        sentences = [candidate.decision, f"{TITLES[choice.method]}{f' ({told})' if told else ''}"]
        if task.config.adaptation == "auto":
            sentences.append(choice.told)
        self.record = AdaptationRecord(
            digest=self._digest,
            rows=len(self._rows),
            asked=str(task.config.adaptation),
            method=choice.method,
            shift=shift.model_dump(mode="json"),
            considered=tuple(one.model_dump(mode="json") for one in choice.all),
        )
        return replace(candidate, decision=". ".join(filter(None, sentences)))


def with_adaptation(config: TrainingConfig, *, given: bool, on_top: bool, reads: Modality) -> TrainingConfig:
    """The settings with an adaptation exactly when there are rows to adapt to.

    Args:
        config: the settings.
        given: whether there are unlabelled rows.
        on_top: whether it is trained on top of another adapter.
        reads: what the base model reads.

    Raises:
        SettingsInvalid: with every contradiction.
    """
    if not given:
        if config.adaptation is None:
            return config
        raise SettingsInvalid(
            f"adaptation is {config.adaptation}, and there are no rows to adapt to",
            remedy="Give unlabelled rows of the target domain (--adapt-to FILE), or set adaptation=null.",
        )
    method, strategy, problems = config.adaptation or "auto", config.strategy, []
    if method in _BELOW_THE_HEAD and strategy == FeatureExtraction.name:
        problems.append(Problem("adaptation", f"{method} trains layers, and feature-extraction trains none of them"))
    if method == "continued-pretraining" and strategy not in ("auto", Lora.name):
        problems.append(Problem("adaptation", f"{method} is done by a LoRA, and the strategy is {strategy}"))
    if method == "continued-pretraining" and reads != "text":
        problems.append(
            Problem(
                "adaptation", f"{method} guesses masked tokens, and {PLURALS[reads]}, which this base reads, have none"
            )
        )
    if processes().count > 1:
        problems.append(Problem("--adapt-to", "runs in one process alone, and this run has several"))
    if on_top:
        problems.append(Problem("--adapt-to", "adapts the base itself so far, and this run has a parent"))
    if problems:
        raise SettingsInvalid(
            "this adaptation cannot be done with these settings",
            problems=problems,
            remedy="Take --strategy lora, or partial for a network without linear layers, or --adaptation "
            "self-training, which goes with every strategy and base.",
        )
    return config.model_copy(update={"adaptation": method})


def _tried(task: Task, target: Target, *, progress: Progress, run: Run) -> dict[Method, tuple[Candidate, str]]:
    """The candidate of every method that is wanted, and what is to be said of it."""
    wanted = task.config.adaptation
    source_only = None
    if wanted in ("auto", "none", "self-training"):
        source_only = choose(task, progress=progress, run=run)
    tried: dict[Method, tuple[Candidate, str]] = {}
    for method in _methods(task, source_only):
        if method == "none":
            assert source_only is not None
            tried[method] = (source_only, "")
            continue
        progress.note(f"adapting by {TITLES[method]}")
        tried[method] = _adapted_by(method, task, target, source_only, progress=progress, run=run)
    return tried


def _choice(task: Task, target: Target, tried: dict[Method, tuple[Candidate, str]]) -> Choice:
    held_out = {
        method: probabilities(candidate.validation_logits, candidate.temperature)
        for method, (candidate, _) in tried.items()
    }
    answers = {method: target.answers(task, candidate) for method, (candidate, _) in tried.items()}
    validation = task.prepared.validation
    return chosen_by_scores(answers, held_out, task.prepared.labels[validation], _weights(task, target))


def _shift(task: Task, target: Target) -> ShiftReport:
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
    tokenizer = task.backbone.tokenizer
    if source_only.strategy == Lora.name and tokenizer is not None and tokenizer.mask_id is not None:
        methods.append("continued-pretraining")
    return methods


def _adapted_by(
    method: Method, task: Task, target: Target, source_only: Candidate | None, *, progress: Progress, run: Run
) -> tuple[Candidate, str]:
    if method == "self-training":
        assert source_only is not None
        return self_trained(source_only, task, target, progress=progress, run=run)
    strategy = tuned_strategy(task.config, task.backbone) if source_only is None else source_only.strategy
    told: list[str] = []
    changes: dict[Method, Callable[[Start, float], Start]] = {
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
