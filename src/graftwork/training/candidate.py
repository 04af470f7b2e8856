"""A delta and a head that could be published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from graftwork.adaptation.strategy import Delta
    from graftwork.data.findings import Finding
    from graftwork.training.history import Judged


@dataclass(frozen=True)
class Candidate:
    """A delta and a head that could be published.

    Attributes:
        strategy: the strategy's name.
        delta: what it trained below the head.
        weight: the head's weights `[classes, width]`.
        bias: the head's bias `[classes]`.
        temperature: divides the logits.
        validation_logits: logits `[validation rows, classes]`, before the temperature, of rows it was not trained on.
        decision: why this one, when it was chosen.
        hidden: weights `[hidden, width]` and bias `[hidden]` of the head's hidden layer, None when it is linear.
        learning_rate: highest rate it was trained with; None when nothing was but the head.
        warnings: what training warned of.
        fisher: Fisher information of the tasks before, as it is stored; None when it is not known.
        judged: the evaluations on the validation rows while a delta was trained, the start's first.
    """

    strategy: str
    delta: Delta
    weight: NDArray[np.floating]
    bias: NDArray[np.floating]
    temperature: float
    validation_logits: NDArray[np.float64]
    decision: str
    hidden: tuple[NDArray[np.floating], NDArray[np.floating]] | None = None
    learning_rate: float | None = None
    warnings: tuple[Finding, ...] = ()
    fisher: bytes | None = None
    judged: tuple[Judged, ...] = ()
