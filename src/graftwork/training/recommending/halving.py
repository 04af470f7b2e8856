"""Successive halving within a number of seconds (Jamieson and Talwalkar, arXiv 1502.07943).

Rounds have equal shares of the time, as there. What an entrant is given in a round is a share of its whole run, and as
in scikit-learn's `HalvingGridSearchCV` with `min_resources="exhaust"` rounds are as long as the time allows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

LEAST_SHARE = 0.25
"""Of a whole run: one epoch of four. A shorter trial was not seen to say anything about the end."""

Entrant = TypeVar("Entrant")


def entrants_for(costs: Sequence[float], seconds: float) -> int:
    """How many of the entrants, from the first on, there is time for; 0 when there is none for the first.

    Args:
        costs: seconds of each one's whole run, the most promising first.
        seconds: for all rounds.

    Example:
        >>> entrants_for([40, 40, 80], 25), entrants_for([40, 40, 80], 40), entrants_for([40], 9)
        (1, 2, 0)
    """
    for count in range(len(costs), 0, -1):
        if seconds / _rounds(count) >= LEAST_SHARE * sum(costs[:count]):
            return count
    return 0


def halve(
    entrants: Sequence[Entrant],
    *,
    cost: Callable[[Entrant], float],
    trial: Callable[[Entrant, float], bool],
    score: Callable[[Entrant], float],
    left: Callable[[], float],
) -> None:
    """Try entrants in rounds; after each the better half goes on with a longer trial.

    No trial begins that is expected to take longer than what is left, less it can be made shorter.

    Args:
        entrants: the most promising first.
        cost: seconds that an entrant's whole run is expected to take; asked anew before each trial.
        trial: trains an entrant for a share of a whole run; False when it could not be ended.
        score: of an entrant by all that is known; the higher the better.
        left: seconds that are left.
    """
    alive = list(entrants[: entrants_for([cost(one) for one in entrants], left())])
    done = 0.0
    while alive and done < 1:
        rounds = _rounds(len(alive))
        share = min(1.0, left() / rounds / sum(cost(one) for one in alive))
        for one in alive:
            possible = min(share, left() / cost(one))
            if possible < max(LEAST_SHARE, done) or not trial(one, possible):
                return
        done = share
        if len(alive) == 1:
            return
        alive = sorted(alive, key=score, reverse=True)[: math.ceil(len(alive) / 2)]


def _rounds(entrants: int) -> int:
    return math.ceil(math.log2(entrants)) + 1
