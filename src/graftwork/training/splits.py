"""The best number of frozen layers, found within a budget by short trials.

Successive halving (Karnin et al., ICML 2013; Jamieson and Talwalkar, arXiv 1502.07943): the budget is shared out evenly
over rounds; in each round every split that is left is trained for as many steps as its share pays for, from the probe's
head, and the better half goes on. What the trunk gives is computed once for all trials of a split. A trial is the
beginning of the run that it stands for, to the bit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from graftwork.adaptation.partial import Partial
from graftwork.errors import SettingsInvalid
from graftwork.training.checkpoint import Checkpoint
from graftwork.training.precision import accelerator_for
from graftwork.training.randomness import own_randomness
from graftwork.training.schedule import rate_factor
from graftwork.training.split_costs import TrialCost, trial_costs
from graftwork.training.tuner import Diverged, Tuner

if TYPE_CHECKING:
    from graftwork.training.config import TrainingConfig
    from graftwork.training.progress import Progress
    from graftwork.training.runs import Run
    from graftwork.training.start import Start
    from graftwork.training.task import Sides, Task

STAGE = "split"
_MOST = 5  # splits that are tried, spread evenly from all layers to the last alone


@dataclass(frozen=True)
class Trial:
    """A split, trained for a while.

    Attributes:
        frozen: layers that stay frozen.
        steps: optimizer steps.
        loss: weighted mean cross-entropy on the validation rows after them; infinite when training diverged.
    """

    frozen: int
    steps: int
    loss: float


@dataclass(frozen=True)
class FoundSplit:
    """What the search found.

    Attributes:
        frozen: layers to freeze.
        layers: of the base.
        trials: in the order they were made.
        budget: seconds that the trials might take.
        gflops: billions of operations that count as a second.
    """

    frozen: int
    layers: int
    trials: tuple[Trial, ...]
    budget: float
    gflops: float

    def told(self) -> str:
        """The choice and the table it was made by, in words."""
        if not self.trials:
            return f"{self.frozen} of {self.layers} layers frozen, which is all there is to choose from"
        rounds = [
            f"after {steps} steps " + ", ".join(f"{trial.frozen} frozen {trial.loss:.4f}" for trial in trials)
            for steps, trials in itertools.groupby(self.trials, key=lambda trial: trial.steps)
        ]
        return (
            f"{self.frozen} of {self.layers} layers frozen, the best by validation loss within {self.budget:g} s at "
            f"{self.gflops:g} GFLOP/s ({'; '.join(rounds)})"
        )


def wants_split(strategy: str, config: TrainingConfig) -> bool:
    """Whether a run of a strategy begins with a search for the split."""
    return strategy == Partial.name and config.partial.freeze_layers == "auto"


def splits_of(layers: int) -> list[int]:
    """The numbers of frozen layers that are tried.

    Example:
        >>> splits_of(12)
        [0, 3, 6, 8, 11]
    """
    return sorted({round(place * (layers - 1) / (_MOST - 1)) for place in range(_MOST)})


def find_split(task: Task, *, progress: Progress, run: Run) -> FoundSplit:
    """Try splits of partial fine-tuning and take the one of least validation loss; of equals the one that freezes most.

    A run that was killed goes on after the last trial that was finished.

    Args:
        task: what the run is made from; `partial.budget` and `partial.gflops` in its settings bound the trials.
        progress: told of every step and every trial.
        run: where finished trials are kept.

    Raises:
        SettingsInvalid: if the budget does not pay for one step of each split.
        TrainingInterrupted: if the run was asked to stop.
    """
    settings = task.config.partial
    remaining = splits_of(task.backbone.num_layers)
    costs = trial_costs(task, remaining)
    trials = _Trials(task, progress, run)
    rounds = math.ceil(math.log2(len(remaining)))
    trunks = sum(cost.trunk for cost in costs.values())
    share = (settings.budget * settings.gflops * 1e9 - trunks) / max(rounds, 1)
    while len(remaining) > 1:
        steps = min(_affordable(share, [costs[split] for split in remaining]), trials.total_steps)
        if steps < 1:
            raise _too_little(task, costs, rounds)
        losses = trials.losses(remaining, steps)
        remaining = sorted(remaining, key=lambda split: (losses[split], -split))[: math.ceil(len(remaining) / 2)]
    found = FoundSplit(remaining[0], task.backbone.num_layers, tuple(trials.done), settings.budget, settings.gflops)
    progress.note(f"partial fine-tuning: {found.told()}")
    return found


def _affordable(share: float, costs: Sequence[TrialCost]) -> int:
    """Steps that every split can make for a share of the budget together."""
    return math.floor((share - sum(cost.evaluation for cost in costs)) / sum(cost.step for cost in costs))


def _too_little(task: Task, costs: dict[int, TrialCost], rounds: int) -> SettingsInvalid:
    settings = task.config.partial
    needed = sum(cost.trunk + rounds * (cost.evaluation + cost.step) for cost in costs.values()) / settings.gflops / 1e9
    return SettingsInvalid(
        f"partial.budget={settings.budget:g} does not pay for one step of each of the {len(costs)} splits "
        f"that partial.freeze_layers=auto tries",
        remedy=f"Give at least partial.budget={math.ceil(needed * 1000) / 1000:g} (s at {settings.gflops:g} GFLOP/s), "
        "or a number of layers.",
    )


class _Trials:
    """The trials that were made, kept with the run.

    Attributes:
        done: in the order they were made.
        total_steps: of a whole run.
    """

    def __init__(self, task: Task, progress: Progress, run: Run) -> None:
        self._task = task
        self._progress = progress
        self._run = run
        self._stage = run.stage(STAGE)
        self._kept: dict[int, Sides] = {}
        found = self._stage.load()
        self.done = [Trial(**trial) for trial in found.state["trials"]] if found else []
        run.metrics.rewind(STAGE, len(self.done))
        if self.done:
            progress.note(f"resumed after {len(self.done)} trials of splits")
        tuning = task.config.fine_tuning
        self.total_steps = math.ceil(len(task.prepared.train) / tuning.batch_size) * tuning.epochs

    def losses(self, splits: Sequence[int], steps: int) -> dict[int, float]:
        """The validation loss of each split after so many steps."""
        known = {trial.frozen: trial.loss for trial in self.done if trial.steps == steps}
        for split in splits:
            if split not in known:
                known[split] = self._make(split, steps)
        return {split: known[split] for split in splits}

    def _make(self, split: int, steps: int) -> float:
        self._progress.stage(f"trying {split} frozen layers", steps)
        settings = self._task.config.partial.model_copy(update={"freeze_layers": split})
        folder = self._run.temporary_folder
        with self._task.start(Partial.name, settings=settings, folder=folder, kept=self._kept, of=_MOST) as start:
            loss = trial_loss(
                start,
                steps,
                total_steps=self.total_steps,
                learning_rate=self._learning_rate(),
                progress=self._progress,
                run=self._run,
            )
        self.done.append(Trial(split, steps, loss))
        measured = {"validation_loss": loss} if math.isfinite(loss) else {}  # JSON has no infinity
        self._run.metrics.log(STAGE, len(self.done), {"frozen": split, "steps": steps, **measured})
        self._stage.save(len(self.done), lambda: Checkpoint({}, {"trials": [asdict(trial) for trial in self.done]}))
        return loss

    def _learning_rate(self) -> float:
        """A rate that is to be looked for is looked for when the split is known."""
        rate = self._task.config.learning_rate_of(Partial.name)
        return Partial.learning_rate if rate == "auto" else rate


def trial_loss(
    start: Start, steps: int, *, total_steps: int, learning_rate: float, progress: Progress, run: Run
) -> float:
    """The validation loss after the first steps of a run, or infinity if it diverges; random generators are as before.

    Args:
        start: what the run starts from.
        steps: steps to make.
        total_steps: of the run, from which the rate at a step follows.
        learning_rate: highest rate.
        progress: told of every step.
        run: asked whether to stop.

    Raises:
        TrainingInterrupted: if the run was asked to stop.
    """
    device, settings = start.backbone.device, start.settings
    objective = start.objective
    batches = start.train.batches_of_all_epochs(settings.batch_size, seed=start.seed)

    def stop_if_asked() -> None:
        run.stop_if_asked(" while splits were tried")

    with own_randomness(start.seed, device), accelerator_for(device, settings.precision) as accelerator:
        tuner = Tuner(
            start.backbone,
            start.attachment,
            start.weight,
            start.bias,
            settings=settings,
            learning_rate=learning_rate,
            rate=lambda step: rate_factor(
                step, total_steps, warmup_share=settings.warmup_share, shape=settings.schedule
            ),
            objective=objective,
            accelerator=accelerator,
            note=progress.note,
        )
        try:
            for rows in itertools.islice(batches, steps):
                loss = tuner.step(start.train.activations, rows, start.train.targets[rows]).loss
                stop_if_asked()
                progress.advance(1, loss=loss)
        except Diverged:
            return math.inf
        loss = objective.validation_loss(
            tuner.logits(start.validation.activations, stop_if_asked), start.validation.targets
        )
    return loss if math.isfinite(loss) else math.inf
