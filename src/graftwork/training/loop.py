"""The loop that trains a delta and its head."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from graftwork.data.findings import Finding
from graftwork.errors import SettingsInvalid
from graftwork.training.checkpoint import Checkpoint
from graftwork.training.course import Course
from graftwork.training.history import Judged
from graftwork.training.progress import Progress
from graftwork.training.runs import Run
from graftwork.training.standing import Standing
from graftwork.training.start import Start
from graftwork.training.transfer import Compared, diverged, negative_transfer
from graftwork.training.tuner import Diverged, Tuner
from graftwork.training.tuning import open_tuner


@dataclass(frozen=True)
class FineTuned:
    """The head at the best evaluation; the delta of that moment is in the attachment.

    Attributes:
        weight: float32 `[classes, width]`; empty where no head was trained, as the bias.
        bias: float32 `[classes]`.
        validation_logits: float32 `[validation rows, classes]` of the best evaluation.
        validation_loss: their weighted mean cross-entropy, calibrated on the same rows.
        best_epoch: the epoch it fell into, counted from 1; 0 when none was better than the start.
        best_step: optimizer steps before it.
        epochs: epochs that were run, the last one perhaps in part.
        steps: optimizer steps that were run.
        warnings: divergence and negative transfer.
        judged: every evaluation, the start's first.
    """

    weight: Tensor
    bias: Tensor
    validation_logits: Tensor
    validation_loss: float
    best_epoch: int
    best_step: int
    epochs: int
    steps: int
    warnings: tuple[Finding, ...]
    judged: tuple[Judged, ...] = ()


def fine_tune(
    start: Start,
    *,
    learning_rate: float,
    progress: Progress,
    run: Run | None = None,
    stage: str = "fine-tuning",
) -> FineTuned:
    """Train an attached delta and the head, starting from a probe (LP-FT, arXiv 2202.10054).

    Cross-entropy, AdamW, linear warm-up and a falling rate per step, clipped gradients, batches of similar length. The
    validation loss is taken before the first step and after each epoch (or so many steps); the best of them is
    restored at the end. A run that was killed goes on from its newest checkpoint and gives the same bits.

    Args:
        start: what it starts from.
        learning_rate: highest rate of AdamW.
        progress: told of every step.
        run: where checkpoints and measurements go.
        stage: the name of this part of the run.

    Raises:
        SettingsInvalid: if the loss stops being finite before there was a state worth keeping.
        TrainingInterrupted: if the run was asked to stop; a checkpoint was written.
    """
    course = Course(start, learning_rate, progress, run or Run(), stage)
    with open_tuner(start, learning_rate=learning_rate, rate=course.rate, note=progress.note) as tuner:
        return _Loop(tuner, course).run_to_the_end()


class _Loop:
    """Where a run stands, and how it goes on."""

    def __init__(self, tuner: Tuner, course: Course) -> None:
        start, run = course.start, course.run
        self._tuner = tuner
        self._course = course
        self._objective = start.objective
        self._train, self._validation = start.train, start.validation
        self._settings = start.settings
        self._device = start.backbone.device
        self._game = start.game
        self._run, self._progress = run, course.progress
        keeping = run if self._settings.sharding == "none" else Run()
        self._stage = keeping.stage(
            course.stage, steps=self._settings.checkpoint_steps, seconds=self._settings.checkpoint_seconds
        )
        self._standing = Standing()
        self._baseline: Compared | None = None
        self._epoch, self._batches = 0, list[list[int]]()
        self._began = time.monotonic()

    def run_to_the_end(self) -> FineTuned:
        tuner = self._tuner
        self._progress.stage("fine-tuning", self._course.total_steps)
        self._load()
        try:
            while not self._standing.finished:
                if not self._standing.history.judged or self._evaluation_is_due():
                    self._evaluate()
                else:
                    self._step()
        except Diverged as error:
            self._end_diverged(error)
        tuner.restore(self._standing.best)
        if self._stage.due(tuner.steps, handy=True):
            self._stage.save(tuner.steps, self._checkpoint)
        best = self._kept()
        weight, bias = tuner.head_of(self._standing.best)
        return FineTuned(
            weight=weight.cpu(),
            bias=bias.cpu(),
            validation_logits=self._standing.best_logits,
            validation_loss=best.loss,
            best_epoch=best.epoch,
            best_step=best.step,
            epochs=self._course.epoch_of(tuner.steps),
            steps=tuner.steps,
            warnings=(*self._standing.warnings, *self._game_warnings()),
            judged=tuple(self._standing.history.judged),
        )

    def _step(self) -> None:
        tuner = self._tuner
        epoch, place = divmod(tuner.steps, self._course.steps_an_epoch)
        if epoch + 1 != self._epoch:
            self._epoch = epoch + 1
            self._batches = self._train.batches(
                self._settings.batch_size, seed=self._course.start.seed, epoch=self._epoch
            )
            lowest = self._course.lowest_trained(self._epoch)
            if lowest is not None:
                tuner.train_from(lowest)
        rows = self._batches[place]
        step = tuner.step(self._train.activations, rows, self._train.targets[rows])
        first = self._run.stepped()
        penalty = {} if step.penalty is None else {"penalty": step.penalty}
        played = self._game.measured() if self._game is not None else {}
        self._measured(loss=step.loss, rate=step.rate, gradient_norm=step.gradient_norm, **penalty, **played, **first)
        if self._stage.due(tuner.steps):
            self._stage.save(tuner.steps, self._checkpoint)
        self._stop_if_asked()
        self._progress.advance(1, loss=step.loss)

    def _evaluation_is_due(self) -> bool:
        steps = self._tuner.steps
        every = self._settings.evaluate_steps or self._course.steps_an_epoch
        return steps > self._standing.history.last.step and (steps % every == 0 or steps == self._course.total_steps)

    def _evaluate(self) -> None:
        tuner, history, targets = self._tuner, self._standing.history, self._validation.targets
        known = None if history.judged else self._course.start.first_logits
        logits = tuner.logits(self._validation.activations, self._stop_if_asked) if known is None else known
        loss = self._objective.validation_loss(logits, targets)
        accuracy = self._objective.accuracy(logits, targets)
        by_task = self._objective.losses_by_task(logits, targets)
        # What decides how to go on is the same everywhere, also on unlike processors.
        loss, accuracy, by_task = tuner.processes.of_first((loss, accuracy, by_task))
        if not history.judged:
            self._begin(logits, loss, accuracy, by_task)
            return
        assert self._baseline is not None
        below = self._baseline.above(logits.cpu().double().numpy())
        history.judged.append(Judged(tuner.steps, self._course.epoch_of(tuner.steps), loss, accuracy, below, by_task))
        self._measured(validation_loss=loss, validation_accuracy=accuracy, **_named(by_task))
        self._progress.advance(0, validation_loss=loss, validation_accuracy=accuracy)
        if self._kept() is history.last:
            self._standing.best, self._standing.best_logits = tuner.values(), logits.cpu()
        stalled = self._game is None and history.stalled(self._settings.patience)
        self._standing.finished = tuner.steps == self._course.total_steps or stalled
        self._warn_of_negative_transfer()
        if not self._standing.finished and self._stage.due(tuner.steps, handy=True):
            self._stage.save(tuner.steps, self._checkpoint)

    def _kept(self) -> Judged:
        """The evaluation whose state is kept: the best; in a game, which labelled rows cannot judge, the last."""
        if self._game is None:
            return self._standing.history.best
        return next(one for one in reversed(self._standing.history.judged) if math.isfinite(one.loss))

    def _game_warnings(self) -> list[Finding]:
        found = self._game.findings() if self._game is not None else []
        for warning in found:
            self._progress.note(f"warning: {warning.message}. {warning.remedy}")
        return found

    def _begin(self, logits: Tensor, loss: float, accuracy: float, by_task: dict[str, float]) -> None:
        """The baseline before the first step: the majority class, and the probe it starts from."""
        if not np.isfinite(loss):
            raise self._refusal("validation loss", 0)
        self._standing.history.judged.append(Judged(0, 0, loss, accuracy, False, by_task))
        self._standing.best, self._standing.best_logits = self._tuner.values(), logits.cpu()
        self._standing.start_logits = self._standing.best_logits
        self._baseline = self._compared_with(self._standing.start_logits)
        beside = self._objective.of_start(self._validation.labels, self._train.labels)
        self._measured(validation_loss=loss, validation_accuracy=accuracy, **beside, **_named(by_task))

    def _compared_with(self, logits: Tensor) -> Compared:
        return self._objective.baseline(logits.double().numpy(), self._validation.labels)

    def _warn_of_negative_transfer(self) -> None:
        told = any(warning.code == "negative-transfer" for warning in self._standing.warnings)
        rows, start = len(self._validation.labels), self._objective.start
        found = negative_transfer(self._standing.history, rows=rows, ended=self._standing.finished, start=start)
        if found is not None and not told:
            self._standing.warnings.append(found)
            self._progress.note(f"warning: {found.message}. {found.remedy}")

    def _end_diverged(self, error: Diverged) -> None:
        step = self._tuner.steps + 1
        rate, start = self._course.learning_rate, self._objective.start
        found = diverged(self._standing.history, what=error.what, step=step, learning_rate=rate, start=start)
        self._standing.warnings.append(found)
        self._progress.note(f"warning: {found.message}. {found.remedy}")
        self._standing.finished = True

    def _refusal(self, what: str, step: int) -> SettingsInvalid:
        return SettingsInvalid(
            f"the {what} was not finite at step {step}, and there was no good state before; nothing was published",
            remedy=f"Lower fine_tuning.learning_rate (it is {self._course.learning_rate:g}).",
        )

    def _stop_if_asked(self) -> None:
        tuner, wish = self._tuner, self._run.interruption
        if tuner.processes.any(wish.requested, self._device):
            wish.request()
            if self._standing.history.judged:
                self._stage.save(tuner.steps, self._checkpoint)
            # The end of one process ends all: not before the first has written.
            tuner.processes.any(True, self._device)
            self._run.stop_if_asked(f" after step {tuner.steps} of {self._course.total_steps}")

    def _measured(self, **values: float) -> None:
        steps = self._tuner.steps
        seconds = round(time.monotonic() - self._began, 3)
        epoch = round(steps / self._course.steps_an_epoch, 4)
        self._run.metrics.log(self._course.stage, steps, {"epoch": epoch, **values, "seconds": seconds})

    def _checkpoint(self) -> Checkpoint:
        seconds = time.monotonic() - self._began
        return self._standing.checkpoint(self._tuner, trunk=self._course.trunk, seconds=seconds, device=self._device)

    def _load(self) -> None:
        """Go on from the newest checkpoint, if the run is one that is resumed."""
        found = self._tuner.processes.of_first(self._stage.load())
        self._run.metrics.rewind(self._course.stage, found.state["steps"] if found else -1)
        if found is None:
            return
        self._standing = Standing.of(found, self._tuner, trunk=self._course.trunk, device=self._device, game=self._game)
        self._baseline = self._compared_with(self._standing.start_logits)
        self._began -= found.state["seconds"]
        self._progress.note(f"resumed at step {self._tuner.steps} of {self._course.total_steps}")
        self._progress.advance(self._tuner.steps)


def _named(by_task: dict[str, float]) -> dict[str, float]:
    return {f"validation_loss.{name}": loss for name, loss in by_task.items()}
