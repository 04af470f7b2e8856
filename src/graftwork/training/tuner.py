"""A head and an attached delta under training: one optimizer step, one evaluation, all of its state.

Several processes share both out: each computes the gradients of its rows, weighted as in the whole batch, they are
added up, and all take the same step. Evaluations are the batches of a single process, each done by one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graftwork.backbones.recompute import recomputed
from graftwork.errors import GraftworkError, SettingsInvalid
from graftwork.training.activations import Activations
from graftwork.training.batches import micro_batches
from graftwork.training.checkpoint import Checkpoint
from graftwork.training.objective import Objective
from graftwork.training.optimizer import parameter_groups
from graftwork.training.processes import processes, telling_of_lost
from graftwork.training.protection import Penalty
from graftwork.training.randomness import RandomState, seed_step
from graftwork.training.sharding import clip_gradients, is_sharded

if TYPE_CHECKING:
    from accelerate import Accelerator

    from graftwork.adaptation.strategy import Attachment
    from graftwork.backbones.backbone import Backbone
    from graftwork.training.config import FineTuningSettings
    from graftwork.training.domains.game import DomainGame
    from graftwork.training.protection import Anchor

MANY_VALUES = 5_000_000
"""Trained values from which AdamW makes its step in one pass over them: more than the caches of a processor hold."""


class Diverged(Exception):
    """Something stopped being finite; the parameters are as they were before the step. The loop handles it."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


@dataclass(frozen=True)
class Step:
    """What an optimizer step measured.

    Attributes:
        loss: before it.
        gradient_norm: before clipping.
        rate: the highest rate of all groups.
        penalty: of what moved away from the start; no part of `loss`. None where nothing is penalised.
    """

    loss: float
    gradient_norm: float
    rate: float
    penalty: float | None = None


class Tuner:
    """See the module.

    Args:
        backbone: the frozen backbone.
        attachment: the delta in place on it.
        weight: the head's first weights `[classes, width]`; None where there is no head, and the activations' vectors
            are what the objective judges.
        bias: the head's first bias `[classes]`.
        settings: of the optimizer and the batches.
        learning_rate: highest rate.
        rate: factor on that at a step, counted from 0.
        objective: what is minimised.
        accelerator: device and precision.
        note: told when memory does not suffice.
        game: against a classifier of domains, trained beside the head.
        anchor: of the penalty towards the start; None for none.

    Attributes:
        parameters: everything that is trained, once each, the head's two last.
        processes: that train it together.
        steps: optimizer steps that are done.
    """

    def __init__(
        self,
        backbone: Backbone,
        attachment: Attachment,
        weight: NDArray[np.float64] | None,
        bias: NDArray[np.float64] | None,
        *,
        settings: FineTuningSettings,
        learning_rate: float,
        rate: Callable[[int], float],
        objective: Objective,
        accelerator: Accelerator,
        note: Callable[[str], None],
        game: DomainGame | None = None,
        anchor: Anchor | None = None,
    ) -> None:
        self._backbone = backbone
        self._attachment = attachment
        self._settings = settings
        self._rate = rate
        self._objective = objective
        self._accelerator = accelerator
        self._note = note
        self._head = _head(weight, bias).to(backbone.device)
        self._game = game
        head = [*(game.parameters() if game is not None else ()), *self._head.parameters()]
        self.processes = processes()
        adapted = attachment.parameters()
        self._depths = list(zip(adapted, attachment.depths(), strict=True))
        self.parameters = list({id(p): p for p in [*adapted, *head]}.values())
        groups = parameter_groups(
            attachment, head, layers=backbone.num_layers, settings=settings, learning_rate=learning_rate
        )
        self._sharded = settings.sharding == "fsdp"
        self._whole = [parameter for parameter in self.parameters if not is_sharded(parameter)]
        self.processes.copy_first([parameter.data for parameter in self._whole])
        # Kernels for many tensors at once take no mixture of spread and whole ones.
        many = not self._sharded and sum(parameter.numel() for parameter in self.parameters) >= MANY_VALUES
        self._plain = torch.optim.AdamW(groups, foreach=False if self._sharded else None, fused=many or None)
        self._optimizer = accelerator.prepare_optimizer(self._plain, device_placement=False)
        self._micro = settings.micro_batch_size or settings.batch_size
        self._seed = torch.initial_seed()
        # Of what all processes start from, so that all of them pull to the same place.
        self._penalty = None if anchor is None else Penalty(anchor, self.parameters)
        self.steps = 0

    def step(self, activations: Activations, rows: list[int], targets: Tensor) -> Step:
        """One optimizer step on these rows, whose class indices are `targets` `[rows]`.

        When memory does not suffice, the rows computed at once are halved, and the step is done again from its start.

        Raises:
            Diverged: if the loss or the gradient is not finite.
            SettingsInvalid: if memory does not suffice for a single row.
        """
        rate = self._set_rate()
        if self.processes.count > 1:
            seed_step(self._seed, self.processes.rank, self.steps)
        loss = self._gradients_of_all(activations, rows, targets)
        if not math.isfinite(loss):
            raise Diverged("training loss")
        scaler = self._accelerator.scaler
        penalty = None
        if self._penalty is not None:
            scale = 1.0 if scaler is None else float(scaler.get_scale())
            penalty = self._penalty.add_gradients(self.parameters, scale=scale)
        norm = self._clip()
        # A scaler looks for overflows itself, skips such a step and lowers the scale.
        if scaler is None and not math.isfinite(norm):
            raise Diverged("gradient")
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.steps += 1
        if self._game is not None:
            self._game.step_done()
        return Step(loss, norm, rate, penalty)

    def train_from(self, layer: int) -> None:
        """Train this layer, those above it and the head from here on, and leave the layers below as they are."""
        for parameter, depth in self._depths:
            parameter.requires_grad_(depth >= layer)

    def logits(self, activations: Activations, between: Callable[[], None]) -> Tensor:
        """Logits `[rows, classes]` of every row, in order, float32, without gradients.

        Args:
            activations: of the rows.
            between: called after each batch, unless there are several processes.
        """
        batches = activations.batches()
        columns = self._head.out_features if isinstance(self._head, nn.Linear) else activations.columns
        logits = torch.zeros((len(activations.lengths), columns), device=self._backbone.device)
        mine = self.processes.share(batches)
        with torch.no_grad(), telling_of_lost():
            for rows in mine:
                logits[rows] = self._logits(activations, rows).float()
                if self.processes.count == 1:
                    between()
            if self._sharded:
                for _ in range(math.ceil(len(batches) / self.processes.count) - len(mine)):
                    self._logits(activations, batches[0])  # the others need this process's part of the weights
        return self.processes.add_up(logits)

    def values(self) -> list[Tensor]:
        """A copy of all parameters."""
        return [parameter.detach().clone() for parameter in self.parameters]

    def head_of(self, values: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The head's weight and bias among values of all parameters; empty where there is no head."""
        return (values[-2], values[-1]) if isinstance(self._head, nn.Linear) else (torch.empty(0), torch.empty(0))

    def restore(self, values: list[Tensor]) -> None:
        """Take back earlier values of all parameters."""
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)

    def state(self) -> Checkpoint:
        """Parameters, optimizer, schedule and scaler; what a step needs beside the rows and the random state."""
        tensors = {f"parameter.{place}": value.cpu() for place, value in enumerate(self.values())}
        for place, parameter in enumerate(self.parameters):
            for name, value in self._plain.state.get(parameter, {}).items():
                tensors[f"optimizer.{place}.{name}"] = value.detach().cpu().clone()
        scaler = self._accelerator.scaler
        state = {
            "steps": self.steps,
            "micro_batch": self._micro,
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        if self._game is not None:
            state["game"] = self._game.state()
        return Checkpoint(tensors, state)

    def load(self, checkpoint: Checkpoint) -> None:
        """Go on from what `state` gave."""
        tensors, state = checkpoint.tensors, checkpoint.state
        self.restore([tensors[f"parameter.{place}"] for place in range(len(self.parameters))])
        for place, parameter in enumerate(self.parameters):
            prefix = f"optimizer.{place}."
            found = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            if found:
                # AdamW counts steps on the CPU, wherever the parameter is.
                self._plain.state[parameter] = {
                    name: value if name == "step" else value.to(parameter.device) for name, value in found.items()
                }
        self.steps = state["steps"]
        self._micro = state["micro_batch"]
        if state["scaler"] is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        if self._game is not None:
            self._game.load(state["game"])

    def _set_rate(self) -> float:
        factor = self._rate(self.steps)
        for group in self._plain.param_groups:
            group["lr"] = group["peak"] * factor
        return max(float(group["lr"]) for group in self._plain.param_groups)

    def _gradients_of_all(self, activations: Activations, rows: list[int], targets: Tensor) -> float:
        """Put the gradient of the whole batch in place; returns the loss."""
        if self.processes.count == 1:
            return self._gradients(activations, rows, targets)
        loss, failed = 0.0, None
        try:
            with telling_of_lost():
                loss = self._gradients(activations, rows, targets)
        except SettingsInvalid as error:
            failed = error
        told = torch.tensor([loss, float(failed is not None)], dtype=torch.float64, device=self._backbone.device)
        self.processes.add_up(told)
        if told[1]:
            self.processes.raise_together(failed)
        for parameter in self._whole:
            if parameter.grad is None:  # there were fewer rows than processes
                parameter.grad = torch.zeros_like(parameter)
        self.processes.add_up_all([parameter.grad for parameter in self._whole if parameter.grad is not None])
        return float(told[0])

    def _clip(self) -> float:
        """Bound the norm of the gradient; returns it as it was."""
        if self._sharded:
            return clip_gradients(self.parameters, self._settings.clip, self.processes)
        return float(self._accelerator.clip_grad_norm_(self.parameters, self._settings.clip))

    def _gradients(self, activations: Activations, rows: list[int], targets: Tensor) -> float:
        """Add the gradient of this process's rows of a batch; returns their part of the loss."""
        from accelerate.utils.memory import should_reduce_batch_size

        while True:
            before = RandomState.now(self._backbone.device)
            try:
                with recomputed(self._backbone, self._settings.gradient_checkpointing):
                    return self._accumulate(activations, rows, targets)
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                if self._sharded:
                    raise GraftworkError(
                        f"memory did not suffice at step {self.steps + 1} in process {self.processes.rank}; sharded "
                        "processes cannot begin a step anew",
                        remedy=f"Set fine_tuning.micro_batch_size below {self._micro}.",
                    ) from error
                if self._micro == 1:
                    raise SettingsInvalid(
                        "memory does not suffice to train on a single row",
                        remedy="Lower max_length, adapt fewer layers, or take a smaller base model.",
                    ) from error
            # Outside of the handler, which holds on to everything that was being computed.
            self._optimizer.zero_grad()
            before.restore(self._backbone.device)
            self._micro = math.ceil(min(self._micro, len(rows)) / 2)
            self._note(
                f"memory did not suffice at step {self.steps + 1}: from here on {self._micro} rows are computed at "
                f"once and added up to the same {self._settings.batch_size} rows a step"
            )

    def _accumulate(self, activations: Activations, rows: list[int], targets: Tensor) -> float:
        whole = self._objective.weight_of(targets)
        total = 0.0
        if self._game is not None:
            self._game.begin_step(self.steps, rows=len(rows))
        self._attachment.train(True)
        try:
            for places in micro_batches(self.processes.share(range(len(rows))), self._micro):
                with self._accelerator.autocast():
                    vectors = activations.vectors([rows[place] for place in places], self._attachment)
                    logits = self._head(vectors)
                    played = self._game.loss(vectors, places) if self._game is not None else None
                loss = self._objective.total(logits, targets[places]) / whole
                total += float(loss.detach())
                if played is not None:
                    loss = loss + played
                self._accelerator.backward(loss)
            if self._sharded:
                self._keep_company(activations, rows)
        finally:
            self._attachment.train(False)
        return total

    def _keep_company(self, activations: Activations, rows: list[int]) -> None:
        """Run as often as the process with the most rows: the others need this one's part of the weights."""
        own, most = (math.ceil(count / self._micro) for count in self._rows_of_shares(len(rows)))
        for _ in range(most - own):
            with self._accelerator.autocast():
                logits = self._logits(activations, rows[:1])
            self._accelerator.backward(logits.sum() * 0.0)

    def _rows_of_shares(self, rows: int) -> tuple[int, int]:
        return len(self.processes.share(range(rows))), math.ceil(rows / self.processes.count)

    def _logits(self, activations: Activations, rows: list[int]) -> Tensor:
        logits: Tensor = self._head(activations.vectors(rows, self._attachment))
        return logits


def _head(weight: NDArray[np.float64] | None, bias: NDArray[np.float64] | None) -> nn.Module:
    if weight is None or bias is None:
        return nn.Identity()
    head = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias))
    return head
