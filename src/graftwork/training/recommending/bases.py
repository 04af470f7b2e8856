"""What probes on several bases say of the bases, compared on the same rows.

The accuracies of two probes on a hundred rows have standard errors of four points each. Much of that they have in
common, since some rows are hard for both; and what is left of their difference is still mostly luck, since bases that
anybody offers for a task are not so different. So the level is taken as measured, and differences between bases are
shrunk by what they are usually and by what a difference on these rows can tell: towards nothing, or towards what the
registry saw of the same bases on other tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

APART = 0.10
"""Standard deviation of a base's errors about the mean of bases, as a share of them: two bases differ by 14 % then. Of
the three encoders of MiniLM's table (github.com/microsoft/unilm, minilm/README.md; BERT-Base, 12 and 6 layers of 384),
pairs differ by 10 to 13 % of their errors (root mean square over MNLI, SST-2, QNLI, RTE, MRPC, QQP)."""
_ANY_LEVEL = 1.0  # standard deviation of an accuracy of which nothing is known


@dataclass(frozen=True)
class Probed:
    """What is expected of the probe on a base, on other rows.

    Attributes:
        accuracy: expected.
        spread: standard deviation.
    """

    accuracy: float
    spread: float


def probes_compared(right: NDArray[np.bool_], apart: Sequence[float] = ()) -> list[Probed]:
    """What is expected of each base's probe, by its answers and by those of the others on the same rows.

    A priori the accuracies are normal, with a level of which nothing is known and deviations from it of `APART` of the
    errors. What was counted on the rows is normal about them, with the covariance of the answers.

    Args:
        right: whether each probe was right on each row, by cross-validation `[rows, bases]`.
        apart: how many more errors than the others each base is expected to have, as a share of them; none by default.

    Example:
        >>> marks = np.array([[True, True]] * 60 + [[True, False]] * 12 + [[False, True]] * 8 + [[False, False]] * 20)
        >>> [round(one.accuracy, 3) for one in probes_compared(marks)]
        [0.71, 0.691]
    """
    rows, bases = right.shape
    measured = right.mean(axis=0)
    level = float(measured.mean())
    # Of rows that are all right or all wrong the variance is that of half a row.
    wrong = max(1 - level, 0.5 / rows)
    sampling = np.cov(right.astype(np.float64), rowvar=False, bias=True).reshape(bases, bases) / rows
    sampling[np.diag_indices(bases)] = np.maximum(sampling.diagonal(), 0.5 / rows**2)
    prior = _ANY_LEVEL**2 + (APART * wrong) ** 2 * np.eye(bases)
    gain = prior @ np.linalg.inv(prior + sampling)
    expected = level - wrong * np.array(apart or [0.0] * bases)
    accuracy = expected + gain @ (measured - expected)
    left = np.maximum((prior - gain @ prior).diagonal(), 0.0)
    return [Probed(float(a), math.sqrt(v)) for a, v in zip(accuracy, left, strict=True)]
