"""Estimates beside what was measured: how wrong they were, and what that says of the next."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graftwork.evaluation.results import Frozen

_ASSUMED_RUNS = 2
WITHIN = 0.25
"""An estimate is called good when what was measured lies within this share of it."""


@dataclass(frozen=True)
class EstimatedRun:
    """A run that was estimated before it, and measured.

    Attributes:
        strategy: as it was asked for.
        machine: where it ran.
        estimated: seconds that were expected, uncorrected.
        as_run: seconds that the epochs it ran were estimated at.
        seconds: that it took.
        estimated_bytes: at the peak, uncorrected.
        peak_bytes: that the process had at most.
        stopped: the share of its epochs that it ran; None where there were none to run.
    """

    strategy: str
    machine: str
    estimated: float
    as_run: float
    seconds: float
    estimated_bytes: int
    peak_bytes: int
    stopped: float | None = None

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> EstimatedRun | None:
        """From what was noted beside a published version; None where nothing was estimated.

        Example:
            >>> noted = {"strategy": "lora", "machine": "m", "seconds": 10.0, "peak_bytes": 500, "most_epochs": 4}
            >>> run = EstimatedRun.of_record({"cost": noted, "total_seconds": 12.0, "peak_bytes": 600, "epochs": 3})
            >>> run.seconds, run.stopped
            (12.0, 0.75)
        """
        noted = record.get("cost")
        if not isinstance(noted, Mapping):
            return None
        try:
            found = cls(
                strategy=str(noted["strategy"]),
                machine=str(noted["machine"]),
                estimated=float(noted["seconds"]),
                as_run=float(noted.get("seconds_of_epochs_run", noted["seconds"])),
                seconds=float(record["total_seconds"]),
                estimated_bytes=int(noted["peak_bytes"]),
                peak_bytes=int(record["peak_bytes"]),
                stopped=int(record["epochs"]) / int(noted["most_epochs"]) if "most_epochs" in noted else None,
            )
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            return None
        return found if min(found.estimated, found.as_run, found.estimated_bytes) > 0 else None

    @property
    def ratio(self) -> float:
        """Seconds measured over expected."""
        return self.seconds / self.estimated

    @property
    def work_ratio(self) -> float:
        """Seconds measured over what the epochs that were run were estimated at: how wrong the rates were."""
        return self.seconds / self.as_run

    @property
    def bytes_ratio(self) -> float:
        """Bytes measured over estimated."""
        return self.peak_bytes / self.estimated_bytes


@dataclass(frozen=True)
class Correction:
    """What earlier runs took in proportion to their estimates.

    Attributes:
        seconds: median ratio of seconds, to the estimate of the epochs that were run.
        bytes: median ratio of bytes.
        runs: how many there were.
    """

    seconds: float
    bytes: float
    runs: int


@dataclass(frozen=True)
class Stops:
    """After which share of its epochs a run stops.

    Attributes:
        fewest: the least share: no evaluation was better than the start.
        expected: on average.
        runs: that the average comes from.
    """

    fewest: float
    expected: float
    runs: int


class EstimateErrors(Frozen):
    """How wrong the estimates for a strategy were.

    Attributes:
        strategy: as it was asked for.
        runs: how many were estimated.
        seconds_ratio: median of seconds measured over expected.
        seconds_within: share of runs whose seconds lie within 25 % of what was expected.
        seconds_worst: the ratio farthest from 1.
        work_ratio: median of seconds measured over those that the epochs run were estimated at.
        work_within: share of runs within 25 % of that.
        bytes_ratio: median of bytes measured over estimated.
        bytes_within: the same share of bytes.
    """

    strategy: str
    runs: int
    seconds_ratio: float
    seconds_within: float
    seconds_worst: float
    work_ratio: float
    work_within: float
    bytes_ratio: float
    bytes_within: float


def correction_for(runs: Iterable[EstimatedRun], *, strategy: str, machine: str) -> Correction | None:
    """What the runs of a strategy on a machine say of the next; None when there are none.

    Example:
        >>> correction_for([EstimatedRun("lora", "m", 12, 10, 15, 100, 120)], strategy="lora", machine="m")
        Correction(seconds=1.5, bytes=1.2, runs=1)
    """
    alike = [run for run in runs if (run.strategy, run.machine) == (strategy, machine)]
    if not alike:
        return None
    return Correction(
        seconds=statistics.median(run.work_ratio for run in alike),
        bytes=statistics.median(run.bytes_ratio for run in alike),
        runs=len(alike),
    )


def stops_of(runs: Iterable[EstimatedRun], *, strategy: str, epochs: int, patience: int) -> Stops:
    """When runs of a strategy stop, by those that there were on any machine.

    A run stops after as many evaluations without a better one as it has patience. Where nothing is known it is taken to
    stop half way between that and all its epochs; that counts as much as two runs.

    Args:
        runs: earlier ones.
        strategy: as it was asked for.
        epochs: at most.
        patience: evaluations without improvement after which it stops, one an epoch.

    Example:
        >>> stops_of([], strategy="lora", epochs=4, patience=1)
        Stops(fewest=0.25, expected=0.625, runs=0)
        >>> stops_of([], strategy="lora", epochs=4, patience=4).expected
        1.0
    """
    fewest = min(1.0, patience / epochs)
    shares = [run.stopped for run in runs if run.strategy == strategy and run.stopped is not None]
    expected = (_ASSUMED_RUNS * (fewest + 1) / 2 + sum(shares)) / (_ASSUMED_RUNS + len(shares))
    return Stops(fewest, min(1.0, max(fewest, expected)), len(shares))


def estimate_errors(runs: Sequence[EstimatedRun]) -> tuple[EstimateErrors, ...]:
    """The errors of all estimates, by strategy in alphabetical order."""
    return tuple(
        _errors(strategy, [run for run in runs if run.strategy == strategy])
        for strategy in sorted({run.strategy for run in runs})
    )


def _errors(strategy: str, runs: Sequence[EstimatedRun]) -> EstimateErrors:
    seconds = [run.ratio for run in runs]
    work = [run.work_ratio for run in runs]
    sizes = [run.bytes_ratio for run in runs]
    worst = max(seconds, key=lambda ratio: abs(math.log(max(ratio, 1e-9))))
    return EstimateErrors(
        strategy=strategy,
        runs=len(runs),
        seconds_ratio=round(statistics.median(seconds), 4),
        seconds_within=round(_within(seconds), 4),
        seconds_worst=round(worst, 4),
        work_ratio=round(statistics.median(work), 4),
        work_within=round(_within(work), 4),
        bytes_ratio=round(statistics.median(sizes), 4),
        bytes_within=round(_within(sizes), 4),
    )


def _within(ratios: Sequence[float]) -> float:
    return sum(abs(ratio - 1) <= WITHIN for ratio in ratios) / len(ratios)
