"""How often each of several tasks is trained on: by the size of its rows, tempered.

A task of `n` rows is drawn in proportion to `n^(1/T)` (T5, arXiv 1910.10683, sec. 3.5.2; arXiv 1907.05019): with
`T = 1` every row counts the same, and the greater `T`, the more alike the tasks count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field


class TasksSettings(BaseModel):
    """How several tasks are trained together; of one task it says nothing.

    Attributes:
        temperature: a task of `n` rows is drawn in proportion to `n^(1/temperature)`: 1 by its rows, more for tasks
            that count more alike.
        compare_single: train each task alone too, on the same rows, and judge whether it suffers from the others; it
            takes as many runs more as there are tasks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(2.0, ge=1, le=1000)
    compare_single: bool = False


def shares(counts: NDArray[np.int64], temperature: float) -> NDArray[np.float64]:
    """The share of each task in what is drawn, `[tasks]`, summing to one.

    Example:
        >>> shares(np.array([100, 400]), 2.0).round(3).tolist()
        [0.333, 0.667]
    """
    weights = counts.astype(np.float64) ** (1 / temperature)
    result: NDArray[np.float64] = weights / weights.sum()
    return result


@dataclass(frozen=True)
class TaskSampling:
    """Rows of several tasks, to be drawn epoch by epoch.

    Attributes:
        owner: index of each row's task, int64 `[rows]`.
        temperature: see the module.
    """

    owner: NDArray[np.int64]
    temperature: float

    def quotas(self) -> NDArray[np.int64]:
        """Rows of each task in an epoch, int64 `[tasks]`: as many as there are rows in all, and of each task one."""
        counts = np.bincount(self.owner)
        wanted = shares(counts, self.temperature) * len(self.owner)
        quotas = np.maximum(np.floor(wanted).astype(np.int64), 1)
        left = max(0, len(self.owner) - int(quotas.sum()))
        quotas[np.argsort(-(wanted - np.floor(wanted)), kind="stable")[:left]] += 1
        return quotas

    def draw(self, *, seed: int, epoch: int) -> NDArray[np.int64]:
        """Positions of the rows of an epoch.

        A task's rows come in shuffled rounds, each row once a round, and the rounds go on from epoch to epoch: so no
        row of it is ever drawn more than once oftener than another. It follows from seed and epoch alone.

        Args:
            seed: of the run.
            epoch: counted from 1.
        """
        drawn = []
        for task, quota in enumerate(self.quotas().tolist()):
            rows = np.flatnonzero(self.owner == task)
            begin, end = (epoch - 1) * quota, epoch * quota
            rounds = range(begin // len(rows), -(-end // len(rows)))
            order = np.concatenate(
                [rows[np.random.default_rng((seed, 1 + task, each)).permutation(len(rows))] for each in rounds]
            )
            skipped = begin - rounds.start * len(rows)
            drawn.append(order[skipped : skipped + quota])
        return np.concatenate(drawn)
