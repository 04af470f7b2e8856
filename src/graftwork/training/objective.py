"""What is minimised: cross-entropy with class weights and label smoothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from graftwork.errors import Problem, SettingsInvalid
from graftwork.evaluation.temperature import fit_temperature
from graftwork.training.transfer import Baseline, majority_accuracy

if TYPE_CHECKING:
    from graftwork.training.transfer import Compared


class Objective:
    """Weighted, smoothed cross-entropy that can be added up over parts of a batch.

    The mean over a batch is the sum over its rows divided by the sum of their weights, as in `torch`: so the sum of its
    parts' sums gives exactly the whole batch's loss, however unequal the parts.

    Args:
        weights: weight of each class `[classes]`; None for one each.
        smoothing: share of the target that is spread over all classes.
        device: where the logits will be.

    Attributes:
        weights: as given, on the device.
        start: what training starts from, as sentences name it.
    """

    start = "the probe"

    def __init__(self, weights: NDArray[np.float32] | None, smoothing: float, device: torch.device) -> None:
        self.weights = None if weights is None else torch.from_numpy(weights).to(device)
        self._smoothing = smoothing

    def total(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Sum over rows: a scalar, from logits `[rows, classes]` and class indices `[rows]`."""
        return cross_entropy(
            logits.float(), targets, weight=self.weights, label_smoothing=self._smoothing, reduction="sum"
        )

    def weight_of(self, targets: Tensor) -> float:
        """Sum of the weights of rows with these class indices."""
        return float(len(targets)) if self.weights is None else float(self.weights[targets].sum())

    def validation_loss(self, logits: Tensor, targets: Tensor) -> float:
        """Weighted mean cross-entropy as these rows calibrate it, without smoothing: that only helps to train."""
        return calibrated_loss(logits, targets, self.weights)

    def accuracy(self, logits: Tensor, targets: Tensor) -> float:
        """Share of rows whose class has the highest logit."""
        return float((logits.argmax(dim=1) == targets).float().mean())

    def losses_by_task(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        """The validation loss of each task by its name; none where there is only one."""
        return {}

    def majority_accuracy(self, labels: NDArray[np.int64], trained: NDArray[np.int64]) -> float:
        """Share of `labels` that the most frequent of the `trained` labels gets right."""
        return majority_accuracy(labels, trained)

    def baseline(self, logits: NDArray[np.float64], labels: NDArray[np.int64]) -> Compared:
        """What later logits `[rows, classes]` of the same rows are compared with."""
        return Baseline(logits, labels, weighted=self.weights is not None)

    def of_start(self, labels: NDArray[np.int64], trained: NDArray[np.int64]) -> dict[str, float]:
        """What is measured once, before the first step."""
        return {"majority_accuracy": self.majority_accuracy(labels, trained)}


def calibrated_loss(logits: Tensor, targets: Tensor, weights: Tensor | None) -> float:
    """Weighted mean cross-entropy after the temperature that is fitted on the same rows.

    What is published is calibrated on them too. Without it an epoch that answers better and is too sure of itself
    would lose to the head that training starts from (docs/decisions/0095-which-epoch-is-kept.md).

    Args:
        logits: `[rows, classes]`.
        targets: class indices `[rows]`.
        weights: of the classes; None for one each.

    Returns:
        Nats a row; not a number where the logits are not finite.
    """
    logits = logits.float()
    if bool(logits.isfinite().all()):
        logits = logits / fit_temperature(logits.double().cpu().numpy(), targets.cpu().numpy())
    return float(cross_entropy(logits, targets, weight=weights))


def class_weights(
    wanted: Literal["balanced"] | Mapping[str, float] | None, labels: NDArray[np.int64], names: Sequence[str]
) -> NDArray[np.float32] | None:
    """Weights `[classes]` as the settings want them.

    `balanced` is rows / (classes * rows of the class), as scikit-learn has it. Classes that a mapping does not name
    weigh 1.

    Args:
        wanted: the setting.
        labels: class indices of the training rows `[rows]`.
        names: label names in the order of the indices.

    Raises:
        SettingsInvalid: with every name that is no label.
    """
    if wanted is None:
        return None
    if wanted == "balanced":
        counts = np.bincount(labels, minlength=len(names))
        return np.asarray(len(labels) / (len(names) * np.maximum(counts, 1)), dtype=np.float32)
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        raise SettingsInvalid(
            "class weights name labels that no row has",
            problems=[Problem(f"fine_tuning.class_weights.{name}", "is no label of these rows") for name in unknown],
            remedy=f"The labels are {', '.join(names[:20])}{' …' if len(names) > 20 else ''}.",
        )
    return np.array([wanted.get(name, 1.0) for name in names], dtype=np.float32)
