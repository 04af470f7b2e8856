"""Candidates of which a delta is trained too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graftwork.adaptation import STRATEGIES
from graftwork.adaptation.weights import WeightsAttachment
from graftwork.data.findings import Finding
from graftwork.training.candidate import Candidate
from graftwork.training.compression import compress
from graftwork.training.loop import FineTuned, fine_tune
from graftwork.training.rate_finder import find_rate
from graftwork.training.splits import find_split, wants_split

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from graftwork.training.progress import Progress
    from graftwork.training.rows import PreparedRows
    from graftwork.training.runs import Run
    from graftwork.training.start import Start
    from graftwork.training.task import Task

_START_WAS_BEST = "as asked for, but no epoch was better on the validation rows than the probe's head it started from"


def tuned_candidate(
    name: str,
    task: Task,
    *,
    progress: Progress,
    run: Run,
    change: Callable[[Start, float], Start] | None = None,
    stage: str | None = None,
) -> Candidate:
    """A strategy's delta, trained from the probe, and calibrated as it will be stored.

    Args:
        name: of the strategy.
        task: what it is made from.
        progress: told of stages and steps.
        run: where checkpoints and measurements go.
        change: what is done to the start before training, given the highest rate; nothing by default.
        stage: name of this part of the run; the strategy's by default.

    Raises:
        SettingsInvalid: if the settings do not fit, or the loss stops being finite before there was a good state.
        TrainingInterrupted: if the run was asked to stop.
    """
    prepared = task.prepared
    split = find_split(task, progress=progress, run=run) if wants_split(name, task.config) else None
    settings = None if split is None else task.config.partial.model_copy(update={"freeze_layers": split.frozen})
    with task.start(name, settings=settings, folder=run.temporary_folder) as start:
        rate = task.config.learning_rate_of(name)
        if rate == "auto":
            rate = find_rate(start, progress=progress).rate
            progress.note(f"learning rate found: {rate:g}")
        if change is not None:
            start = change(start, rate)  # noqa: PLW2901 - the same delta in place
        tuned = fine_tune(start, learning_rate=rate, progress=progress, run=run, stage=stage or name)
        logits, stored = as_stored(start, tuned, progress)
        delta = start.attachment.delta()
    sayings = [text for text in (split.told() if split else "", stored) if text]
    return Candidate(
        strategy=name,
        delta=delta,
        weight=tuned.weight.numpy(),
        bias=tuned.bias.numpy(),
        temperature=task.temperature(logits),
        validation_logits=logits,
        decision=", ".join([STRATEGIES[name].title, *sayings]) if sayings else "",
        learning_rate=rate,
        warnings=(*_classes_not_validated(prepared, progress), *tuned.warnings),
        judged=tuned.judged,
    )


def as_stored(start: Start, tuned: FineTuned, progress: Progress) -> tuple[NDArray[np.float64], str]:
    """Logits `[validation rows, classes]` of what will be stored, and what is to be said of it."""
    if tuned.best_epoch == 0:
        return tuned.validation_logits.double().numpy(), _START_WAS_BEST
    if not isinstance(start.attachment, WeightsAttachment):
        return tuned.validation_logits.double().numpy(), ""
    device = start.backbone.device
    compressed = compress(
        start.attachment,
        weight=tuned.weight.to(device),
        bias=tuned.bias.to(device),
        train=start.train.activations,
        validation=start.validation.activations,
        seed=start.seed,
        progress=progress,
        recompute=start.settings.gradient_checkpointing,
        tasks=start.tasks,
    )
    return compressed.stored.double().numpy(), compressed.cost(start.validation.labels, start.tasks)


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
