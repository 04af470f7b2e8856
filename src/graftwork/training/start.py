"""What training a delta and its head starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np

    from graftwork.adaptation.strategy import Attachment
    from graftwork.backbones.backbone import TextBackbone
    from graftwork.training.activations import Activations
    from graftwork.training.config import FineTuningSettings
    from graftwork.training.domains.game import DomainGame


@dataclass(frozen=True)
class Rows:
    """Labelled rows as the tail receives them.

    Attributes:
        activations: what the tail receives for each row.
        labels: class indices, int64 `[rows]`.
        targets: the same, where the backbone is.
    """

    activations: Activations
    labels: NDArray[np.int64]
    targets: Tensor

    @classmethod
    def of(cls, activations: Activations, labels: NDArray[np.int64], device: torch.device) -> Rows:
        """Rows whose labels are also on a device."""
        return cls(activations, labels, torch.from_numpy(labels).to(device))


@dataclass(frozen=True)
class Start:
    """A delta in place, a head fitted for it, and the rows to go on with (LP-FT, arXiv 2202.10054).

    Attributes:
        backbone: the frozen backbone.
        attachment: the delta in place on it.
        weight: the head's first weights, float64 `[classes, width]`.
        bias: the head's first bias, float64 `[classes]`.
        train: the training rows.
        validation: the validation rows.
        settings: of the optimizer and the batches.
        seed: decides the order of rows and dropout.
        class_weights: weight of each class in the loss, float32 `[classes]`; None for one each.
        unfreezing: train the upper layers first, and one group of layers more each epoch.
        game: against a classifier of domains, None without one; such a run is not stopped and ends where it ends.
    """

    backbone: TextBackbone
    attachment: Attachment
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    train: Rows
    validation: Rows
    settings: FineTuningSettings
    seed: int
    class_weights: NDArray[np.float32] | None = None
    unfreezing: bool = False
    game: DomainGame | None = None
