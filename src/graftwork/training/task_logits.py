"""Logits of several tasks side by side, of rows that each have a label of one of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graftwork.adaptation.inference import probabilities
from graftwork.evaluation.temperature import fit_temperature
from graftwork.registry.tasks import TaskColumns
from graftwork.training.transfer import Baseline

Logits = NDArray[np.float64]
Labels = NDArray[np.int64]


def owners(tasks: Sequence[TaskColumns]) -> Labels:
    """Index of the task of each class, int64 `[classes]`."""
    return np.repeat(np.arange(len(tasks)), [len(task.labels) for task in tasks])


def of_task(task: TaskColumns, labels: Labels) -> Labels:
    """Positions of the rows with a label of this task."""
    return np.flatnonzero((labels >= task.start) & (labels < task.columns.stop))


def fit_temperatures(logits: Logits, labels: Labels, tasks: Sequence[TaskColumns]) -> list[float]:
    """The temperature of each task, fitted on its own rows of logits `[rows, classes]`."""
    return [
        fit_temperature(logits[mine, task.columns], labels[mine] - task.start)
        for task in tasks
        for mine in (of_task(task, labels),)
    ]


def own_probabilities(
    logits: Logits, labels: Labels, tasks: Sequence[TaskColumns], temperatures: Sequence[float]
) -> Logits:
    """Probabilities `[rows, classes]` within each row's own task; nought elsewhere.

    Args:
        logits: `[rows, classes]`.
        labels: class indices `[rows]`, which tell a row's task.
        tasks: whose the columns are.
        temperatures: of the tasks.
    """
    found = np.zeros_like(logits)
    for task, temperature in zip(tasks, temperatures, strict=True):
        mine = of_task(task, labels)
        if len(mine):
            found[mine, task.columns] = probabilities(logits[mine, task.columns], temperature)
    return found


class TasksBaseline(Baseline):
    """The start's answers of several tasks, each calibrated by itself; rows of all of them are compared together."""

    def __init__(self, tasks: Sequence[TaskColumns], logits: Logits, labels: Labels, *, weighted: bool) -> None:
        self._tasks = tasks
        super().__init__(logits, labels, weighted=weighted)

    def _calibrated(self, logits: Logits) -> Logits:
        temperatures = fit_temperatures(logits, self._labels, self._tasks)
        return own_probabilities(logits, self._labels, self._tasks, temperatures)
