"""The accuracy that is expected of a candidate: a prior on what its strategy mends, and what trials showed.

All of it is about one number, the share of the probe's errors that a strategy mends. Over candidates the prior is a
joint normal: some tasks can be mended by any strategy and some by none, so that candidates share a part of their
variance, and a trial of one says something about the others. A trial is a measurement with a standard error, to which
comes what a run that was cut short does not say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from graftwork.evaluation.results import Interval

if TYPE_CHECKING:
    from graftwork.evaluation.intervals import Ints
    from graftwork.training.recommending.bases import Probed
    from graftwork.training.recommending.results import Trial

_Z = NormalDist().inv_cdf(0.975)
COMMON = 0.6
"""Share of a prior's variance that all candidates of a task have in common."""
CUT_SHORT = 0.15
"""Standard deviation of the mended share at the end of a run about what a trial of no length shows; it falls with the
share of the run that the trial was."""


@dataclass(frozen=True)
class Belief:
    """A normal distribution over the share of the probe's errors that is mended.

    Attributes:
        mean: of it.
        spread: standard deviation.
    """

    mean: float
    spread: float

    def accuracy(self, probed: Probed) -> Interval:
        """The accuracy that is expected beyond a probe, with 95 % limits.

        Args:
            probed: what is expected of the probe.
        """
        probe = probed.accuracy
        wrong = 1 - probe
        half = _Z * math.hypot(probed.spread * (1 - self.mean), wrong * self.spread)
        value = min(1.0, probe + wrong * self.mean)
        return Interval.of(value, max(0.0, value - half), min(1.0, value + half))


def after_trials(priors: Sequence[Belief], trials: Mapping[int, Trial]) -> list[Belief]:
    """What is believed of each candidate when some of them were tried.

    Args:
        priors: of the candidates; one without spread is certain.
        trials: the longest of each candidate that was tried, by its place.

    Example:
        >>> after_trials([Belief(0.1, 0.1)], {})
        [Belief(mean=0.1, spread=0.1)]
    """
    if not trials:
        return list(priors)
    mean = np.array([belief.mean for belief in priors])
    spread = np.array([belief.spread for belief in priors])
    covariance = COMMON * np.outer(spread, spread) + np.diag((1 - COMMON) * spread**2)
    places = sorted(trials)
    noise = [trials[p].spread ** 2 + (CUT_SHORT * (1 - min(trials[p].share, 1.0))) ** 2 for p in places]
    gain = covariance[:, places] @ np.linalg.inv(covariance[np.ix_(places, places)] + np.diag(noise))
    mean = mean + gain @ (np.array([trials[p].mended for p in places]) - mean[places])
    left = np.maximum(np.diag(covariance - gain @ covariance[places, :]), 0.0)
    return [Belief(float(m), float(math.sqrt(v))) for m, v in zip(mean, left, strict=True)]


def mended_share(tuned: Ints, start: Ints, truth: Ints) -> tuple[float, float]:
    """The share of a start's errors that were mended, less what was broken, and its standard error.

    The standard error is that of a difference of two dependent proportions, with one more row of each kind, so that
    few rows never seem certain.

    Args:
        tuned: answers after training `[rows]`.
        start: answers before `[rows]`.
        truth: class indices `[rows]`.

    Example:
        >>> truth = np.zeros(10, dtype=np.int64)
        >>> mended_share(truth, np.array([1, 1, 0, 0, 0, 0, 0, 0, 0, 0]), truth)[0]
        1.0
    """
    rows = len(truth)
    mended = int(((tuned == truth) & (start != truth)).sum())
    broken = int(((tuned != truth) & (start == truth)).sum())
    wrong = max(int((start != truth).sum()), 1)
    up, down = mended + 1, broken + 1
    variance = up + down - (up - down) ** 2 / (rows + 2)
    return (mended - broken) / wrong, math.sqrt(variance) / wrong
