"""The unlabelled rows of a run, and what a candidate answers on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from graftwork.adaptation import strategy_of
from graftwork.adaptation.inference import probabilities
from graftwork.training.activations import Activations

if TYPE_CHECKING:
    from pathlib import Path

    from graftwork.data.dataset import Dataset
    from graftwork.training.candidate import Candidate
    from graftwork.training.task import Task


@dataclass(frozen=True)
class Target:
    """Usable unlabelled rows.

    Attributes:
        rows: the rows; their labels are empty.
        features: pooled features of the bare backbone `[rows, width]`.
    """

    rows: Dataset
    features: NDArray[np.floating]

    def activations(self, task: Task, split: int, folder: Path | None) -> Activations:
        """What the tail receives for each row."""
        ids = task.backbone.encode(self.rows.texts, task.max_length)
        memory = task.config.fine_tuning.cache_gb * 1e9
        return Activations(task.backbone, ids, split=split, memory=memory, folder=folder)

    def answers(self, task: Task, candidate: Candidate) -> NDArray[np.float64]:
        """A candidate's calibrated probabilities `[rows, classes]`, its delta as it is stored."""
        features = self.features
        if candidate.delta.files:
            with strategy_of(candidate.strategy).restore(task.backbone, candidate.delta.files):
                features = task.backbone.embed(self.rows.texts, max_length=task.max_length).numpy()
        inputs = features.astype(np.float64)
        if candidate.hidden is not None:
            weight, bias = candidate.hidden
            inputs = np.maximum(inputs @ weight.astype(np.float64).T + bias, 0)
        logits = inputs @ candidate.weight.astype(np.float64).T + candidate.bias
        return probabilities(logits, candidate.temperature)


def without_gradients(activations: Activations, attachment: object, width: int) -> NDArray[np.float32]:
    """Pooled vectors `[rows, width]` with a delta in place, in evaluation mode."""
    vectors = np.zeros((len(activations.lengths), width), dtype=np.float32)
    with torch.no_grad():
        for rows in activations.batches():
            vectors[rows] = activations.vectors(rows, attachment).cpu().numpy()  # type: ignore[arg-type]
    return vectors
