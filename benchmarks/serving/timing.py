"""Timing candidates in turn, so that whatever else the machine does meets all of them alike."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

WARM_ROUNDS = 2
CALLS = 3

# Gives the seconds of one call, by the name of what was timed: a call may be timed in several parts.
Candidate = Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class Spread:
    """The middle and the middle half of some values."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value or more."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(statistics.median(values), low, high)


class Timings:
    """Seconds of each candidate, one value a round."""

    def __init__(self) -> None:
        self.rounds: dict[str, list[float]] = {}

    def spread(self, name: str) -> Spread:
        """Median and middle half of the rounds, in seconds."""
        return Spread.of(self.rounds[name])

    def ratio(self, name: str, to: str) -> float:
        """How many times as long it takes as another: the median over the rounds, each compared within itself."""
        pairs = zip(self.rounds[name], self.rounds[to], strict=True)
        return statistics.median(mine / other for mine, other in pairs)


def clocked(name: str, call: Callable[[], object]) -> Candidate:
    """A candidate that is timed from its call to its return."""

    def timed() -> dict[str, float]:
        start = time.perf_counter()
        call()
        return {name: time.perf_counter() - start}

    return timed


def interleaved(candidates: Sequence[Candidate], rounds: int) -> Timings:
    """Time every candidate in every round, in an order that changes from round to round.

    In its turn a candidate is called once without a clock, so that no other's caches and threads are in its way, and
    then three times; the median of those is its value of the round. The first rounds are not counted.
    """
    timings = Timings()
    order = list(candidates)
    for number in range(-WARM_ROUNDS, rounds):
        random.Random(number).shuffle(order)
        for candidate in order:
            candidate()
            calls = [candidate() for _ in range(CALLS)]
            if number < 0:
                continue
            for name in calls[0]:
                timings.rounds.setdefault(name, []).append(statistics.median(call[name] for call in calls))
    return timings


def percentile(values: Sequence[float], percent: float) -> float:
    """The least value that at least this share of the values does not exceed.

    Example:
        >>> percentile([4.0, 1.0, 3.0, 2.0], 50), percentile([4.0, 1.0, 3.0, 2.0], 99)
        (2.0, 4.0)
    """
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * int(percent * 100) // 10_000) - 1)]
