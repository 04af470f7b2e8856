"""From trained weights to what is stored of them, its scales trained to make up for it (BitDelta, arXiv 2402.10193).

Signs and a mean size a row are a coarse copy of what was trained. One pass over the training rows, in which nothing
but the scales may change, brings the answers back: the divergence (KL) of the head's probabilities from those of the
uncompressed weights is lowered by Adam. No label is needed, and the head stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graftwork.adaptation.inference import probabilities
from graftwork.backbones.recompute import recomputed
from graftwork.evaluation.temperature import fit_temperature
from graftwork.training.activations import Activations
from graftwork.training.progress import Progress
from graftwork.training.task_logits import fit_temperatures, own_probabilities

if TYPE_CHECKING:
    from graftwork.adaptation.weights import WeightsAttachment
    from graftwork.registry.tasks import TaskColumns

# Of factors that are 1 at first; found on MiniLM (docs/decisions/0054-weight-deltas.md).
_LEARNING_RATE = 0.02
_BATCH_ROWS = 32


@dataclass(frozen=True)
class Compressed:
    """What compression did to the logits of the validation rows, float32 `[validation rows, classes]`.

    Attributes:
        encoding: how the weights are stored.
        trained: by the weights as trained.
        untuned: by the weights as first encoded.
        stored: by the weights as they are stored, the scales trained; `untuned` where the encoding has none.
    """

    encoding: str
    trained: Tensor
    untuned: Tensor
    stored: Tensor

    def cost(self, labels: NDArray[np.int64], tasks: Sequence[TaskColumns] = ()) -> str:
        """What it costs on these rows, in words: accuracy and calibrated log loss before and after.

        Args:
            labels: class indices `[validation rows]`.
            tasks: whose the classes are, when there are several tasks.
        """
        told = f"stored {self.encoding}; on {len(labels)} validation rows " + _quality(
            self.trained, labels, tasks, "as trained"
        )
        if self.encoding == "one-bit":
            told += ", " + _quality(self.untuned, labels, tasks, "as signs")
        return told + ", " + _quality(self.stored, labels, tasks, "as stored")


def compress(
    attachment: WeightsAttachment,
    *,
    weight: Tensor,
    bias: Tensor,
    train: Activations,
    validation: Activations,
    seed: int,
    progress: Progress,
    recompute: bool = False,
    tasks: Sequence[TaskColumns] = (),
) -> Compressed:
    """Let a trained attachment go over to what will be stored, and train the scales of that.

    Args:
        attachment: the trained delta, in place.
        weight: the head's weights `[classes, width]`.
        bias: the head's bias `[classes]`.
        train: what the tail receives for the training rows.
        validation: the same for the validation rows.
        seed: decides the order of rows.
        progress: told of every step.
        recompute: keep less for the way back (see `FineTuningSettings.gradient_checkpointing`).
        tasks: whose the classes are, when there are several tasks.
    """
    parts = [task.columns for task in tasks] or [slice(None)]
    head = nn.Linear(weight.shape[1], weight.shape[0]).requires_grad_(False)
    head.weight.copy_(weight)
    head.bias.copy_(bias)
    head.to(weight.device)
    trained = _all_logits(attachment, head, validation)
    if attachment.encoding != "one-bit":
        attachment.compress()
        stored = _all_logits(attachment, head, validation)
        return Compressed(attachment.encoding, trained.cpu(), stored.cpu(), stored.cpu())
    wanted = _all_logits(attachment, head, train)
    factors = attachment.compress()
    untuned = _all_logits(attachment, head, validation)
    if factors:
        with recomputed(attachment.backbone, recompute):
            _train_scales(attachment, factors, head, train, wanted, parts, seed, progress)
    stored = _all_logits(attachment, head, validation)
    return Compressed(attachment.encoding, trained.cpu(), untuned.cpu(), stored.cpu())


def _train_scales(
    attachment: WeightsAttachment,
    factors: list[nn.Parameter],
    head: nn.Linear,
    train: Activations,
    wanted: Tensor,
    parts: Sequence[slice],
    seed: int,
    progress: Progress,
) -> None:
    order = np.random.default_rng(seed).permutation(len(wanted))
    batches = [order[start : start + _BATCH_ROWS].tolist() for start in range(0, len(order), _BATCH_ROWS)]
    progress.stage("training the scales of what is stored", len(batches))
    optimizer = torch.optim.Adam(factors, lr=_LEARNING_RATE)
    for step, rows in enumerate(batches):
        optimizer.param_groups[0]["lr"] = _LEARNING_RATE * (1 - step / len(batches))
        found = head(train.vectors(rows, attachment))
        divergence = torch.stack([_divergence(found[:, part], wanted[rows][:, part]) for part in parts]).sum()
        optimizer.zero_grad(set_to_none=True)
        divergence.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        progress.advance(1, divergence=float(divergence.detach()))


def _divergence(found: Tensor, wanted: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the classes' probabilities, mean over the rows."""
    return nn.functional.kl_div(
        found.log_softmax(dim=1), wanted.log_softmax(dim=1), reduction="batchmean", log_target=True
    )


def _all_logits(attachment: WeightsAttachment, head: nn.Linear, activations: Activations) -> Tensor:
    """Logits of every row, in order, without gradients."""
    logits = torch.empty((len(activations.lengths), head.out_features), device=head.weight.device)
    with torch.no_grad():
        for rows in activations.batches():
            logits[rows] = head(activations.vectors(rows, attachment))
    return logits


def _quality(logits: Tensor, labels: NDArray[np.int64], tasks: Sequence[TaskColumns], when: str) -> str:
    exact = logits.double().numpy()
    if tasks:
        own = own_probabilities(exact, labels, tasks, fit_temperatures(exact, labels, tasks))
    else:
        own = probabilities(exact, fit_temperature(exact, labels))
    accuracy = (own.argmax(axis=1) == labels).mean()
    loss = -np.log(own[np.arange(len(labels)), labels]).mean()
    return f"accuracy {accuracy:.1%} and log loss {loss:.3f} {when}"
