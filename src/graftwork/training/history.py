"""What the evaluations of a run said so far: which was the best, and when there is no more to hope for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Judged:
    """One evaluation on the validation rows.

    Attributes:
        step: optimizer steps before it; 0 for the start.
        epoch: the epoch it fell into, counted from 1; 0 for the start.
        loss: weighted mean cross-entropy, calibrated on the same rows.
        accuracy: share of rows whose label is the most probable.
        below: it is below the start beyond chance.
        by_task: the loss of each task, of several.
    """

    step: int
    epoch: int
    loss: float
    accuracy: float
    below: bool = False
    by_task: Mapping[str, float] = field(default_factory=dict)


@dataclass
class History:
    """Every evaluation, the start's first.

    Attributes:
        judged: in the order they were made.
    """

    judged: list[Judged] = field(default_factory=list)

    @property
    def best(self) -> Judged:
        """The first of least loss; a loss that is not a number is never best."""
        return min(self.judged, key=lambda one: one.loss if one.loss == one.loss else float("inf"))

    @property
    def last(self) -> Judged:
        """The newest."""
        return self.judged[-1]

    def stalled(self, patience: int) -> bool:
        """Whether so many evaluations have passed since the best."""
        return len(self.judged) - 1 - self.judged.index(self.best) >= patience

    @property
    def fallen(self) -> list[Judged]:
        """The newest evaluations in a row that are below the start."""
        fallen: list[Judged] = []
        for one in reversed(self.judged):
            if not one.below:
                break
            fallen.insert(0, one)
        return fallen

    def to_json(self) -> list[dict[str, Any]]:
        """As JSON holds it, every bit kept."""
        return [asdict(one) for one in self.judged]

    @classmethod
    def from_json(cls, content: list[dict[str, Any]]) -> History:
        """From what `to_json` gave."""
        return cls([Judged(**one) for one in content])
