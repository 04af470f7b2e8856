"""The loop that trains a delta and its head."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graftwork.errors import SettingsInvalid
from graftwork.training.activations import Activations
from graftwork.training.config import FineTuningSettings
from graftwork.training.progress import Progress

if TYPE_CHECKING:
    from graftwork.adaptation.strategy import Attachment
    from graftwork.backbones.backbone import TextBackbone

_BUCKET = 8  # batches that are sorted by length together: less padding, still shuffled


@dataclass(frozen=True)
class FineTuned:
    """The head at the best epoch; the delta of that epoch is in the attachment.

    Attributes:
        weight: float32 `[classes, width]`.
        bias: float32 `[classes]`.
        validation_logits: float32 `[validation rows, classes]` of the best epoch.
        validation_loss: their mean cross-entropy.
        best_epoch: counted from 1; 0 when no epoch was better than the start.
        epochs: epochs that were run.
        steps: optimizer steps that were run.
    """

    weight: Tensor
    bias: Tensor
    validation_logits: Tensor
    validation_loss: float
    best_epoch: int
    epochs: int
    steps: int


def fine_tune(
    backbone: TextBackbone,
    attachment: Attachment,
    *,
    weight: NDArray[np.float64],
    bias: NDArray[np.float64],
    train: Activations,
    train_labels: NDArray[np.int64],
    validation: Activations,
    validation_labels: NDArray[np.int64],
    settings: FineTuningSettings,
    learning_rate: float,
    seed: int,
    progress: Progress,
) -> FineTuned:
    """Train an attached delta and the head, starting from a probe (LP-FT, arXiv 2202.10054).

    Cross-entropy, AdamW, linear warm-up and cosine decay per step, clipped gradients, batches of similar length. The
    validation loss is taken before the first step and after each epoch; the best of them is restored at the end.

    Args:
        backbone: the frozen backbone.
        attachment: the delta in place on it.
        weight: the probe's weights `[classes, width]`.
        bias: the probe's bias `[classes]`.
        train: what the tail receives for the training rows.
        train_labels: their class indices.
        validation: the same for the validation rows.
        validation_labels: their class indices.
        settings: batches and lengths.
        learning_rate: highest rate of AdamW.
        seed: decides the order of rows and dropout.
        progress: told of every step.

    Raises:
        SettingsInvalid: if the loss stops being finite.
    """
    tuner = _Tuner(backbone, attachment, weight, bias, settings, learning_rate, rows=len(train_labels))
    targets = torch.from_numpy(train_labels).to(backbone.device)
    wanted = torch.from_numpy(validation_labels).to(backbone.device)
    progress.stage("fine-tuning", tuner.total_steps)
    best = tuner.judged(validation, wanted, epoch=0)
    kept = tuner.values()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for epoch in range(1, settings.epochs + 1):
            for rows in _epoch_batches(train.lengths, settings.batch_size, seed=seed, epoch=epoch):
                progress.advance(1, loss=tuner.step(train, rows, targets[rows]))
            now = tuner.judged(validation, wanted, epoch=epoch)
            accuracy = float((now.validation_logits.argmax(dim=1) == wanted.cpu()).float().mean())
            progress.advance(0, validation_loss=now.validation_loss, validation_accuracy=accuracy)
            if now.validation_loss < best.validation_loss:
                best, kept = now, tuner.values()
            elif epoch - best.best_epoch >= settings.patience:
                break
    tuner.restore(kept)
    return replace(best, epochs=epoch, steps=tuner.steps)


class _Tuner:
    """A head and an attached delta under training."""

    def __init__(
        self,
        backbone: TextBackbone,
        attachment: Attachment,
        weight: NDArray[np.float64],
        bias: NDArray[np.float64],
        settings: FineTuningSettings,
        learning_rate: float,
        *,
        rows: int,
    ) -> None:
        self._backbone = backbone
        self._attachment = attachment
        self._settings = settings
        self._learning_rate = learning_rate
        self._head = nn.Linear(weight.shape[1], weight.shape[0]).to(backbone.device)
        with torch.no_grad():
            self._head.weight.copy_(torch.from_numpy(weight))
            self._head.bias.copy_(torch.from_numpy(bias))
        self.parameters = [*attachment.parameters(), *self._head.parameters()]
        self.total_steps = total = math.ceil(rows / settings.batch_size) * settings.epochs
        self.steps = 0
        self._optimizer = torch.optim.AdamW(self.parameters, lr=learning_rate, weight_decay=settings.weight_decay)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: _rate(step, total, settings.warmup_share)
        )

    def step(self, activations: Activations, rows: list[int], targets: Tensor) -> float:
        """One optimizer step on these rows; returns the loss before it."""
        self._attachment.train(True)
        loss = nn.functional.cross_entropy(self._logits(activations, rows), targets)
        self._attachment.train(False)
        _refuse_divergence(loss, self.steps, self._learning_rate)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, self._settings.clip)
        self._optimizer.step()
        self._schedule.step()
        self.steps += 1
        return float(loss.detach())

    def all_logits(self, activations: Activations) -> Tensor:
        """Logits of every row, in order, without gradients."""
        parts = []
        order: list[int] = []
        with torch.no_grad():
            for rows in activations.batches():
                parts.append(self._logits(activations, rows))
                order += rows
        logits = torch.cat(parts)
        return logits[torch.from_numpy(np.argsort(order, kind="stable")).to(logits.device)]

    def judged(self, validation: Activations, wanted: Tensor, *, epoch: int) -> FineTuned:
        """The head as it is now, with its loss on the validation rows."""
        logits = self.all_logits(validation)
        loss = float(nn.functional.cross_entropy(logits, wanted))
        weight, bias = self._head.weight.detach().clone().cpu(), self._head.bias.detach().clone().cpu()
        return FineTuned(weight, bias, logits.cpu(), loss, epoch, epoch, self.steps)

    def values(self) -> list[Tensor]:
        """A copy of all parameters."""
        return [parameter.detach().clone() for parameter in self.parameters]

    def restore(self, values: list[Tensor]) -> None:
        """Take back earlier values of all parameters."""
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)

    def _logits(self, activations: Activations, rows: list[int]) -> Tensor:
        logits: Tensor = self._head(activations.vectors(rows, self._attachment))
        return logits


def _epoch_batches(lengths: NDArray[np.int64], size: int, *, seed: int, epoch: int) -> Iterator[list[int]]:
    """Shuffled batches whose rows have similar lengths; every row once."""
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(lengths))
    batches: list[list[int]] = []
    for start in range(0, len(order), size * _BUCKET):
        bucket = order[start : start + size * _BUCKET]
        bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
        batches += [bucket[place : place + size].tolist() for place in range(0, len(bucket), size)]
    for place in random.permutation(len(batches)):
        yield batches[int(place)]


def _rate(step: int, total: int, warmup_share: float) -> float:
    """Factor on the learning rate at a step: linear warm-up, then half a cosine down to nought."""
    warmup = max(1, round(total * warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _refuse_divergence(loss: Tensor, step: int, learning_rate: float) -> None:
    if not torch.isfinite(loss):
        raise SettingsInvalid(
            f"the training loss stopped being finite at step {step + 1}; nothing was published",
            remedy=f"Lower fine_tuning.learning_rate (it is {learning_rate:g}).",
        )
