"""The time that a recommendation may take, and who is asked to stop when it is over."""

from __future__ import annotations

import time
from collections.abc import Callable

from graftwork.training.interruption import Interruption


class OutOfTime(Exception):
    """The budget is used up; caught where the work can be left out."""


class Budget:
    """Seconds that may be spent, from now on.

    Args:
        seconds: of them.
        clock: gives the time in seconds; wall clock by default.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds = seconds
        self.clock = clock
        self._began = clock()

    @property
    def spent(self) -> float:
        """Seconds so far."""
        return self.clock() - self._began

    @property
    def left(self) -> float:
        """Seconds that are left; negative when it is overdrawn."""
        return self.seconds - self.spent

    def check(self, *_: object) -> None:
        """Stop here when it is used up.

        Raises:
            OutOfTime: if so.
        """
        if self.left <= 0:
            raise OutOfTime


class TimeLimit(Interruption):
    """The wish that a run should end when a budget is used up.

    Args:
        budget: the budget.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._asked = False

    @property
    def requested(self) -> bool:  # type: ignore[override]
        """Whether it is used up, or somebody has asked."""
        return self._asked or self._budget.left <= 0

    def request(self) -> None:
        """Ask the run to end, whatever is left."""
        self._asked = True
