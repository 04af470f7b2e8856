"""What is minimised when several tasks share a delta: each row's cross-entropy among the labels of its own task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from graftwork.registry.tasks import TaskColumns
from graftwork.training.objective import Objective, calibrated_loss
from graftwork.training.task_logits import TasksBaseline, of_task, owners
from graftwork.training.transfer import Baseline, majority_accuracy


class TasksObjective(Objective):
    """The same of rows of several tasks, whose logits stand side by side.

    A batch's loss is the mean over its rows, whatever their tasks: so the tasks weigh as often as they are drawn. What
    decides when to stop is the mean over the tasks.

    Args:
        tasks: whose the columns of the logits are.
        weights: weight of each class `[classes]`; None for one each.
        smoothing: share of the target that is spread over all classes of the task.
        device: where the logits will be.
    """

    def __init__(
        self,
        tasks: Sequence[TaskColumns],
        weights: NDArray[np.float32] | None,
        smoothing: float,
        device: torch.device,
    ) -> None:
        super().__init__(weights, smoothing, device)
        self._tasks = tasks
        self._owner = torch.from_numpy(owners(tasks)).to(device)

    def total(self, logits: Tensor, targets: Tensor) -> Tensor:
        """As `Objective.total`, each row among the classes of its task."""
        parts = [
            cross_entropy(own, truth, weight=weights, label_smoothing=self._smoothing, reduction="sum")
            for _, own, truth, weights in self._parts(logits, targets)
        ]
        return torch.stack(parts).sum()

    def validation_loss(self, logits: Tensor, targets: Tensor) -> float:
        """Mean over the tasks of their weighted mean cross-entropy, each task calibrated by itself."""
        return float(np.mean(list(self.losses_by_task(logits, targets).values())))

    def accuracy(self, logits: Tensor, targets: Tensor) -> float:
        """Mean over the tasks of the share of their rows that are right."""
        shares = [
            float((own.argmax(dim=1) == truth).float().mean()) for _, own, truth, _ in self._parts(logits, targets)
        ]
        return float(np.mean(shares))

    def losses_by_task(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        """The weighted, calibrated mean cross-entropy of each task that has rows, by its name."""
        return {
            task.name: calibrated_loss(own, truth, weights)
            for task, own, truth, weights in self._parts(logits, targets)
        }

    def majority_accuracy(self, labels: NDArray[np.int64], trained: NDArray[np.int64]) -> float:
        """Mean over the tasks of what their most frequent label gets right."""
        found = [
            majority_accuracy(labels[mine] - task.start, trained[of_task(task, trained)] - task.start)
            for task in self._tasks
            if len(mine := of_task(task, labels))
        ]
        return float(np.mean(found))

    def baseline(self, logits: NDArray[np.float64], labels: NDArray[np.int64]) -> Baseline:
        """As `Objective.baseline`, each task calibrated by itself."""
        return TasksBaseline(self._tasks, logits, labels, weighted=self.weights is not None)

    def _parts(self, logits: Tensor, targets: Tensor) -> Iterator[tuple[TaskColumns, Tensor, Tensor, Tensor | None]]:
        """Of each task that has rows: its logits, its class indices and its class weights."""
        owner = self._owner[targets]
        for index, task in enumerate(self._tasks):
            mine = owner == index
            if bool(mine.any()):
                weights = None if self.weights is None else self.weights[task.columns]
                yield task, logits[mine][:, task.columns].float(), targets[mine] - task.start, weights
