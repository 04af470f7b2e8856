"""Short trainings of candidates on a base whose features are known."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from graftwork.adaptation import STRATEGIES
from graftwork.errors import SettingsInvalid, TrainingInterrupted
from graftwork.training.loop import fine_tune
from graftwork.training.progress import Progress
from graftwork.training.recommending.clock import Budget, TimeLimit
from graftwork.training.recommending.prediction import mended_share
from graftwork.training.recommending.results import Evidence, Trial
from graftwork.training.runs import Run
from graftwork.training.task import Sides, Task

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone
    from graftwork.training.config import TrainingConfig
    from graftwork.training.probe import Probe
    from graftwork.training.recommending.evidence import Features
    from graftwork.training.rows import PreparedRows


@dataclass
class KnownBase:
    """A base that was read.

    Attributes:
        name: what it is called.
        backbone: the base, frozen.
        prepared: the rows.
        features: of them.
        probe: fitted on them.
        evidence: what both say.
        max_length: tokens kept of a text.
        reading: seconds that reading all rows once took.
        kept: activations by rows and split, used again by later trials.
    """

    name: str
    backbone: Backbone
    prepared: PreparedRows
    features: Features
    probe: Probe
    evidence: Evidence
    max_length: int
    reading: float
    kept: dict[int, dict[int, Sides]] = field(default_factory=dict)

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether the probe was right on each row, by the fold that did not see it."""
        found: NDArray[np.bool_] = self.probe.held_out_logits.argmax(axis=1) == self.prepared.labels
        return found


def make_trial(
    known: KnownBase, strategy: str, config: TrainingConfig, *, share: float, budget: Budget, progress: Progress
) -> Trial | None:
    """Train a candidate for a share of a whole run: fewer epochs, and below one epoch fewer rows.

    The schedule of the learning rate is that of a run of this length. Compared are the answers on the validation rows
    after training and those of the head that it started from.

    Args:
        known: the base.
        strategy: its name.
        config: the settings.
        share: of a whole run's work.
        budget: ends the trial when it is used up.
        progress: told of every step.

    Returns:
        What it showed; None when the budget ended it, or it could not be trained with these settings.
    """
    whole = known.prepared.train
    epochs = max(1, min(config.fine_tuning.epochs, round(share * config.fine_tuning.epochs)))
    count = min(len(whole), max(1, round(share * config.fine_tuning.epochs / epochs * len(whole))))
    rows = whole if count == len(whole) else np.sort(np.random.default_rng(config.seed).permutation(whole)[:count])
    tuning = config.fine_tuning.model_copy(update={"epochs": epochs})
    task = Task(
        known.backbone,
        replace(known.prepared, train=rows),
        known.features.top,
        known.probe,
        config.model_copy(update={"fine_tuning": tuning}),
        known.max_length,
    )
    rate = config.learning_rate_of(strategy)
    if rate == "auto":
        rate = STRATEGIES[strategy].learning_rate  # looking for one would take longer than the trial
    began = budget.clock()
    progress.stage(f"trying {strategy} on {known.name}", None)
    try:
        with task.start(strategy, kept=known.kept.setdefault(count, {})) as start:
            tuned = fine_tune(start, learning_rate=rate, progress=progress, run=Run(interruption=TimeLimit(budget)))
    except (TrainingInterrupted, SettingsInvalid):
        return None
    places = known.prepared.validation
    truth = known.prepared.labels[places]
    weight, bias = task.first_head()
    before = (known.features.top[places].astype(np.float64) @ weight.T + bias).argmax(axis=1)
    after = tuned.validation_logits.numpy().argmax(axis=1)
    mended, spread = mended_share(after, before, truth)
    return Trial(
        epochs=epochs,
        rows=count,
        share=round(epochs * count / (config.fine_tuning.epochs * len(whole)), 6),
        accuracy=round(float((after == truth).mean()), 6),
        start=round(float((before == truth).mean()), 6),
        mended=round(mended, 6),
        spread=round(spread, 6),
        seconds=round(budget.clock() - began, 3),
    )
