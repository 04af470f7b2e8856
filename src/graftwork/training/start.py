"""What training a delta and its head starts from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from numpy.typing import NDArray
from torch import Tensor

from graftwork.training.batches import epoch_batches
from graftwork.training.objective import Objective
from graftwork.training.tasks_objective import TasksObjective

if TYPE_CHECKING:
    import numpy as np

    from graftwork.adaptation.strategy import Attachment
    from graftwork.backbones.backbone import Backbone
    from graftwork.registry.tasks import TaskColumns
    from graftwork.training.activations import Activations
    from graftwork.training.config import FineTuningSettings
    from graftwork.training.domains.game import DomainGame
    from graftwork.training.protection import Anchor
    from graftwork.training.sampling import TaskSampling


@dataclass(frozen=True)
class Rows:
    """Labelled rows as the tail receives them.

    Attributes:
        activations: what the tail receives for each row.
        labels: class indices, int64 `[rows]`.
        targets: the same, where the backbone is.
        sampling: how many rows of each task an epoch takes, of rows of several tasks.
    """

    activations: Activations
    labels: NDArray[np.int64]
    targets: Tensor
    sampling: TaskSampling | None = None

    @classmethod
    def of(
        cls,
        activations: Activations,
        labels: NDArray[np.int64],
        device: torch.device,
        sampling: TaskSampling | None = None,
    ) -> Rows:
        """Rows whose labels are also on a device."""
        return cls(activations, labels, torch.from_numpy(labels).to(device), sampling)

    def batches(self, size: int, *, seed: int, epoch: int) -> list[list[int]]:
        """The batches of an epoch: every row once, or as tasks are sampled; a function of its arguments.

        Args:
            size: rows a batch at most.
            seed: of the run.
            epoch: counted from 1.
        """
        lengths = self.activations.lengths
        if self.sampling is None:
            return epoch_batches(lengths, size, seed=seed, epoch=epoch)
        drawn = self.sampling.draw(seed=seed, epoch=epoch)
        batches = epoch_batches(lengths[drawn], size, seed=seed, epoch=epoch)
        return [drawn[batch].tolist() for batch in batches]

    def batches_of_all_epochs(self, size: int, *, seed: int) -> Iterator[list[int]]:
        """The same, epoch after epoch, without end."""
        for epoch in itertools.count(1):
            yield from self.batches(size, seed=seed, epoch=epoch)


@dataclass(frozen=True)
class Start:
    """A delta in place, a head fitted for it, and the rows to go on with (LP-FT, arXiv 2202.10054).

    Attributes:
        backbone: the frozen backbone.
        attachment: the delta in place on it.
        weight: the head's first weights, float64 `[classes, width]`; None where there is no head to train.
        bias: the head's first bias, float64 `[classes]`.
        train: the training rows.
        validation: the validation rows.
        settings: of the optimizer and the batches.
        seed: decides the order of rows and dropout.
        class_weights: weight of each class in the loss, float32 `[classes]`; None for one each.
        unfreezing: train the upper layers first, and one group of layers more each epoch.
        game: against a classifier of domains, None without one; such a run is not stopped and ends where it ends.
        anchor: of the penalty that pulls everything that is trained towards this start; None for none.
        tasks: which classes are whose, of several tasks; they are told apart in the loss.
        own_objective: what is minimised instead of the cross-entropy of classes.
        first_logits: float32 `[validation rows, classes]`, what this start gives, where that is known already.
    """

    backbone: Backbone
    attachment: Attachment
    weight: NDArray[np.float64] | None
    bias: NDArray[np.float64] | None
    train: Rows
    validation: Rows
    settings: FineTuningSettings
    seed: int
    class_weights: NDArray[np.float32] | None = None
    unfreezing: bool = False
    game: DomainGame | None = None
    anchor: Anchor | None = None
    tasks: tuple[TaskColumns, ...] = ()
    own_objective: Objective | None = None
    first_logits: Tensor | None = None

    @property
    def objective(self) -> Objective:
        """What is minimised."""
        if self.own_objective is not None:
            return self.own_objective
        smoothing, device = self.settings.label_smoothing, self.backbone.device
        if self.tasks:
            return TasksObjective(self.tasks, self.class_weights, smoothing, device)
        return Objective(self.class_weights, smoothing, device)
