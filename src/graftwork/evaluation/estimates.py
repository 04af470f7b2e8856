"""Estimates beside what was measured: how wrong they were, and what that says of the next."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graftwork.evaluation.results import Frozen

WITHIN = 0.25
"""An estimate is called good when what was measured lies within this share of it."""


@dataclass(frozen=True)
class EstimatedRun:
    """A run that was estimated before it, and measured.

    Attributes:
        strategy: as it was asked for.
        machine: where it ran.
        estimated: seconds, uncorrected.
        seconds: that it took.
        estimated_bytes: at the peak, uncorrected.
        peak_bytes: that the process had at most.
    """

    strategy: str
    machine: str
    estimated: float
    seconds: float
    estimated_bytes: int
    peak_bytes: int

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> EstimatedRun | None:
        """From what was noted beside a published version; None where nothing was estimated.

        Example:
            >>> noted = {"strategy": "lora", "machine": "m", "seconds": 10.0, "peak_bytes": 500}
            >>> EstimatedRun.of_record({"cost": noted, "total_seconds": 12.0, "peak_bytes": 600}).seconds
            12.0
        """
        noted = record.get("cost")
        if not isinstance(noted, Mapping):
            return None
        try:
            found = cls(
                strategy=str(noted["strategy"]),
                machine=str(noted["machine"]),
                estimated=float(noted["seconds"]),
                seconds=float(record["total_seconds"]),
                estimated_bytes=int(noted["peak_bytes"]),
                peak_bytes=int(record["peak_bytes"]),
            )
        except (KeyError, TypeError, ValueError):
            return None
        return found if min(found.estimated, found.estimated_bytes) > 0 else None

    @property
    def ratio(self) -> float:
        """Seconds measured over estimated."""
        return self.seconds / self.estimated

    @property
    def bytes_ratio(self) -> float:
        """Bytes measured over estimated."""
        return self.peak_bytes / self.estimated_bytes


@dataclass(frozen=True)
class Correction:
    """What earlier runs took in proportion to their estimates.

    Attributes:
        seconds: median ratio of seconds.
        bytes: median ratio of bytes.
        runs: how many there were.
    """

    seconds: float
    bytes: float
    runs: int


class EstimateErrors(Frozen):
    """How wrong the estimates for a strategy were.

    Attributes:
        strategy: as it was asked for.
        runs: how many were estimated.
        seconds_ratio: median of seconds measured over estimated.
        seconds_within: share of runs whose seconds lie within 25 % of the estimate.
        seconds_worst: the ratio farthest from 1.
        bytes_ratio: median of bytes measured over estimated.
        bytes_within: the same share of bytes.
    """

    strategy: str
    runs: int
    seconds_ratio: float
    seconds_within: float
    seconds_worst: float
    bytes_ratio: float
    bytes_within: float


def correction_for(runs: Iterable[EstimatedRun], *, strategy: str, machine: str) -> Correction | None:
    """What the runs of a strategy on a machine say of the next; None when there are none.

    Example:
        >>> correction_for([EstimatedRun("lora", "m", 10, 15, 100, 120)], strategy="lora", machine="m")
        Correction(seconds=1.5, bytes=1.2, runs=1)
    """
    alike = [run for run in runs if (run.strategy, run.machine) == (strategy, machine)]
    if not alike:
        return None
    return Correction(
        seconds=statistics.median(run.ratio for run in alike),
        bytes=statistics.median(run.bytes_ratio for run in alike),
        runs=len(alike),
    )


def estimate_errors(runs: Sequence[EstimatedRun]) -> tuple[EstimateErrors, ...]:
    """The errors of all estimates, by strategy in alphabetical order."""
    return tuple(
        _errors(strategy, [run for run in runs if run.strategy == strategy])
        for strategy in sorted({run.strategy for run in runs})
    )


def _errors(strategy: str, runs: Sequence[EstimatedRun]) -> EstimateErrors:
    seconds = [run.ratio for run in runs]
    sizes = [run.bytes_ratio for run in runs]
    worst = max(seconds, key=lambda ratio: abs(math.log(max(ratio, 1e-9))))
    return EstimateErrors(
        strategy=strategy,
        runs=len(runs),
        seconds_ratio=round(statistics.median(seconds), 4),
        seconds_within=round(_within(seconds), 4),
        seconds_worst=round(worst, 4),
        bytes_ratio=round(statistics.median(sizes), 4),
        bytes_within=round(_within(sizes), 4),
    )


def _within(ratios: Sequence[float]) -> float:
    return sum(abs(ratio - 1) <= WITHIN for ratio in ratios) / len(ratios)
