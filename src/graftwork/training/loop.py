"""The loop that trains a delta and its head."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from graftwork.data.findings import Finding
from graftwork.errors import SettingsInvalid
from graftwork.training.checkpoint import Checkpoint
from graftwork.training.config import FineTuningSettings
from graftwork.training.domains.unfreezing import lowest_trained
from graftwork.training.history import History, Judged
from graftwork.training.objective import Objective
from graftwork.training.precision import accelerator_for
from graftwork.training.progress import Progress
from graftwork.training.randomness import RandomState, own_randomness
from graftwork.training.runs import Run
from graftwork.training.schedule import rate_factor
from graftwork.training.sharding import sharded
from graftwork.training.start import Rows, Start
from graftwork.training.transfer import Compared, diverged, negative_transfer
from graftwork.training.tuner import Diverged, Tuner

if TYPE_CHECKING:
    from graftwork.training.domains.game import DomainGame


@dataclass(frozen=True)
class FineTuned:
    """The head at the best evaluation; the delta of that moment is in the attachment.

    Attributes:
        weight: float32 `[classes, width]`; empty where no head was trained, as the bias.
        bias: float32 `[classes]`.
        validation_logits: float32 `[validation rows, classes]` of the best evaluation.
        validation_loss: their weighted mean cross-entropy.
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
    device, settings = start.backbone.device, start.settings
    steps_an_epoch = math.ceil(len(start.train.labels) / settings.batch_size)
    total_steps = steps_an_epoch * settings.epochs
    objective = start.objective
    with (
        own_randomness(start.seed, device),
        accelerator_for(device, settings.precision) as accelerator,
        sharded(start.backbone, start.attachment, settings) as tuned,
    ):
        tuner = Tuner(
            start.backbone,
            tuned,
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
            game=start.game,
            anchor=start.anchor,
        )
        loop = _Loop(
            tuner,
            objective,
            start.train,
            start.validation,
            settings=settings,
            steps_an_epoch=steps_an_epoch,
            total_steps=total_steps,
            learning_rate=learning_rate,
            seed=start.seed,
            device=device,
            progress=progress,
            run=run or Run(),
            stage=stage,
            lowest=_unfreezing(start),
            game=start.game,
        )
        return loop.run_to_the_end()


class _Loop:
    """Where a run stands, and how it goes on."""

    def __init__(
        self,
        tuner: Tuner,
        objective: Objective,
        train: Rows,
        validation: Rows,
        *,
        settings: FineTuningSettings,
        steps_an_epoch: int,
        total_steps: int,
        learning_rate: float,
        seed: int,
        device: torch.device,
        progress: Progress,
        run: Run,
        stage: str,
        lowest: Callable[[int], int] | None,
        game: DomainGame | None,
    ) -> None:
        self._tuner = tuner
        self._objective = objective
        self._train = train
        self._validation = validation
        self._settings = settings
        self._steps_an_epoch = steps_an_epoch
        self._total_steps = total_steps
        self._learning_rate = learning_rate
        self._seed = seed
        self._device = device
        self._progress = progress
        self._run = run
        self._name = stage
        self._lowest = lowest
        self._game = game
        keeping = run if settings.sharding == "none" else Run()
        self._stage = keeping.stage(stage, steps=settings.checkpoint_steps, seconds=settings.checkpoint_seconds)
        self._history = History()
        self._start_logits = torch.empty(0)
        self._best_logits = torch.empty(0)
        self._best: list[Tensor] = []
        self._baseline: Compared | None = None
        self._warnings: list[Finding] = []
        self._finished = False
        self._epoch, self._batches = 0, list[list[int]]()
        self._began = time.monotonic()

    def run_to_the_end(self) -> FineTuned:
        tuner = self._tuner
        self._progress.stage("fine-tuning", self._total_steps)
        self._load()
        try:
            while not self._finished:
                if not self._history.judged or self._evaluation_is_due():
                    self._evaluate()
                else:
                    self._step()
        except Diverged as error:
            self._end_diverged(error)
        tuner.restore(self._best)
        if self._stage.due(tuner.steps, handy=True):
            self._stage.save(tuner.steps, self._checkpoint)
        best = self._kept()
        weight, bias = tuner.head_of(self._best)
        return FineTuned(
            weight=weight.cpu(),
            bias=bias.cpu(),
            validation_logits=self._best_logits,
            validation_loss=best.loss,
            best_epoch=best.epoch,
            best_step=best.step,
            epochs=self._epoch_of(tuner.steps),
            steps=tuner.steps,
            warnings=(*self._warnings, *self._game_warnings()),
            judged=tuple(self._history.judged),
        )

    def _step(self) -> None:
        tuner = self._tuner
        epoch, place = divmod(tuner.steps, self._steps_an_epoch)
        if epoch + 1 != self._epoch:
            self._epoch = epoch + 1
            self._batches = self._train.batches(self._settings.batch_size, seed=self._seed, epoch=self._epoch)
            if self._lowest is not None:
                tuner.train_from(self._lowest(self._epoch))
        rows = self._batches[place]
        step = tuner.step(self._train.activations, rows, self._train.targets[rows])
        self._run.stepped()
        penalty = {} if step.penalty is None else {"penalty": step.penalty}
        played = self._game.measured() if self._game is not None else {}
        self._measured(loss=step.loss, rate=step.rate, gradient_norm=step.gradient_norm, **penalty, **played)
        if self._stage.due(tuner.steps):
            self._stage.save(tuner.steps, self._checkpoint)
        self._stop_if_asked()
        self._progress.advance(1, loss=step.loss)

    def _evaluation_is_due(self) -> bool:
        steps = self._tuner.steps
        every = self._settings.evaluate_steps or self._steps_an_epoch
        return steps > self._history.last.step and (steps % every == 0 or steps == self._total_steps)

    def _evaluate(self) -> None:
        tuner, history, targets = self._tuner, self._history, self._validation.targets
        logits = tuner.logits(self._validation.activations, self._stop_if_asked)
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
        history.judged.append(Judged(tuner.steps, self._epoch_of(tuner.steps), loss, accuracy, below, by_task))
        self._measured(validation_loss=loss, validation_accuracy=accuracy, **_named(by_task))
        self._progress.advance(0, validation_loss=loss, validation_accuracy=accuracy)
        if self._kept() is history.last:
            self._best, self._best_logits = tuner.values(), logits.cpu()
        stalled = self._game is None and history.stalled(self._settings.patience)
        self._finished = tuner.steps == self._total_steps or stalled
        self._warn_of_negative_transfer()
        if not self._finished and self._stage.due(tuner.steps, handy=True):
            self._stage.save(tuner.steps, self._checkpoint)

    def _kept(self) -> Judged:
        """The evaluation whose state is kept: the best; in a game, which labelled rows cannot judge, the last."""
        if self._game is None:
            return self._history.best
        return next(one for one in reversed(self._history.judged) if math.isfinite(one.loss))

    def _game_warnings(self) -> list[Finding]:
        found = self._game.findings() if self._game is not None else []
        for warning in found:
            self._progress.note(f"warning: {warning.message}. {warning.remedy}")
        return found

    def _begin(self, logits: Tensor, loss: float, accuracy: float, by_task: dict[str, float]) -> None:
        """The baseline before the first step: the majority class, and the probe it starts from."""
        if not np.isfinite(loss):
            raise self._refusal("validation loss", 0)
        self._history.judged.append(Judged(0, 0, loss, accuracy, False, by_task))
        self._best, self._best_logits = self._tuner.values(), logits.cpu()
        self._start_logits = self._best_logits
        self._baseline = self._compared_with(self._start_logits)
        beside = self._objective.of_start(self._validation.labels, self._train.labels)
        self._measured(validation_loss=loss, validation_accuracy=accuracy, **beside, **_named(by_task))

    def _compared_with(self, logits: Tensor) -> Compared:
        return self._objective.baseline(logits.double().numpy(), self._validation.labels)

    def _warn_of_negative_transfer(self) -> None:
        told = any(warning.code == "negative-transfer" for warning in self._warnings)
        rows, start = len(self._validation.labels), self._objective.start
        found = negative_transfer(self._history, rows=rows, ended=self._finished, start=start)
        if found is not None and not told:
            self._warnings.append(found)
            self._progress.note(f"warning: {found.message}. {found.remedy}")

    def _end_diverged(self, error: Diverged) -> None:
        step = self._tuner.steps + 1
        rate, start = self._learning_rate, self._objective.start
        found = diverged(self._history, what=error.what, step=step, learning_rate=rate, start=start)
        self._warnings.append(found)
        self._progress.note(f"warning: {found.message}. {found.remedy}")
        self._finished = True

    def _refusal(self, what: str, step: int) -> SettingsInvalid:
        return SettingsInvalid(
            f"the {what} was not finite at step {step}, and there was no good state before; nothing was published",
            remedy=f"Lower fine_tuning.learning_rate (it is {self._learning_rate:g}).",
        )

    def _stop_if_asked(self) -> None:
        tuner, wish = self._tuner, self._run.interruption
        if tuner.processes.any(wish.requested, self._device):
            wish.request()
            if self._history.judged:
                self._stage.save(tuner.steps, self._checkpoint)
            # The end of one process ends all: not before the first has written.
            tuner.processes.any(True, self._device)
            self._run.stop_if_asked(f" after step {tuner.steps} of {self._total_steps}")

    def _measured(self, **values: float) -> None:
        steps = self._tuner.steps
        seconds = round(time.monotonic() - self._began, 3)
        epoch = round(steps / self._steps_an_epoch, 4)
        self._run.metrics.log(self._name, steps, {"epoch": epoch, **values, "seconds": seconds})

    def _epoch_of(self, steps: int) -> int:
        return -(-steps // self._steps_an_epoch)

    def _checkpoint(self) -> Checkpoint:
        """Everything: the last state unless it is finished, the best, the random state, the history."""
        state = self._tuner.state()
        tensors = {} if self._finished else dict(state.tensors)
        tensors |= {f"best.{place}": value.cpu() for place, value in enumerate(self._best)}
        tensors |= {"best_logits": self._best_logits, "start_logits": self._start_logits}
        random = RandomState.now(self._device)
        tensors |= {f"random.{name}": value for name, value in random.tensors.items()}
        content: dict[str, Any] = {
            **state.state,
            "trunk": [self._train.activations.identity, self._validation.activations.identity],
            "random": random.content,
            "history": self._history.to_json(),
            "warnings": [warning.model_dump(mode="json") for warning in self._warnings],
            "finished": self._finished,
            "seconds": time.monotonic() - self._began,
        }
        return Checkpoint(tensors, content)

    def _load(self) -> None:
        """Go on from the newest checkpoint, if the run is one that is resumed."""
        found = self._tuner.processes.of_first(self._stage.load())
        self._run.metrics.rewind(self._name, found.state["steps"] if found else -1)
        if found is None:
            return
        tensors, state = found.tensors, found.state
        self._refuse_other_trunk(state["trunk"])
        self._history = History.from_json(state["history"])
        self._warnings = [Finding.model_validate(warning) for warning in state["warnings"]]
        self._finished = state["finished"]
        self._best = [tensors[f"best.{place}"].to(self._device) for place in range(len(self._tuner.parameters))]
        self._best_logits, self._start_logits = tensors["best_logits"], tensors["start_logits"]
        self._baseline = self._compared_with(self._start_logits)
        if self._finished:
            self._tuner.steps = state["steps"]
            if self._game is not None:
                self._game.load(state["game"])
        else:
            self._tuner.load(found)
        RandomState(_under("random.", tensors), state["random"]).restore(self._device)
        self._began -= state["seconds"]
        self._progress.note(f"resumed at step {self._tuner.steps} of {self._total_steps}")
        self._progress.advance(self._tuner.steps)

    def _refuse_other_trunk(self, trunk: list[str]) -> None:
        if trunk != [self._train.activations.identity, self._validation.activations.identity]:
            raise SettingsInvalid(
                "the checkpoint was made over other activations of the trunk",
                remedy="Train from the beginning, without --resume.",
            )


def _unfreezing(start: Start) -> Callable[[int], int] | None:
    """The lowest layer that is trained in an epoch; None when all are in each."""
    if not start.unfreezing:
        return None
    epochs, layers, first = start.settings.epochs, start.backbone.num_layers, start.attachment.split
    return lambda epoch: lowest_trained(epoch, epochs=epochs, layers=layers, first=first)


def _named(by_task: dict[str, float]) -> dict[str, float]:
    return {f"validation_loss.{name}": loss for name, loss in by_task.items()}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
