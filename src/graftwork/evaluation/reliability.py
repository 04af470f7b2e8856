"""Whether a classifier is right as often as it says: answers grouped by confidence."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from graftwork.evaluation.evaluate import Answers, checked_probabilities, checked_truth
from graftwork.evaluation.intervals import Floats, Ints, wilson_limits
from graftwork.evaluation.metrics import CALIBRATION_BINS
from graftwork.evaluation.results import Frozen, Interval
from graftwork.evaluation.tables import Table, percent


class ReliabilityBin(Frozen):
    """Answers of about the same confidence.

    Attributes:
        low: the confidence is above this.
        high: and at most this.
        rows: how many answers there are.
        confidence: their mean confidence.
        accuracy: share of them that is right, with its Wilson interval.
    """

    low: float
    high: float
    rows: int = Field(ge=1)
    confidence: float
    accuracy: Interval


def reliability_bins(probabilities: Floats, truth: Ints, *, level: float = 0.95) -> tuple[ReliabilityBin, ...]:
    """The bins of the calibration error (15 of equal width) that hold answers, by rising confidence.

    The rows' mean absolute gap between `confidence` and `accuracy` is the calibration error of `evaluate`.

    Args:
        probabilities: `[rows, classes]`, each row summing to one.
        truth: class index of each row `[rows]`.
        level: confidence level of the intervals.

    Raises:
        ValueError: shapes that do not fit, no rows, or numbers that are no probabilities.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    classes = probabilities.shape[-1]
    answers = Answers.of(checked_probabilities(probabilities, len(truth), classes), checked_truth(truth, classes))
    right = answers.predicted == answers.truth
    bins = answers.bins
    found = []
    for place in np.unique(bins):
        chosen = bins == place
        hits, rows = int(right[chosen].sum()), int(chosen.sum())
        low, high = wilson_limits(np.array([hits]), np.array([rows]), level)
        found.append(
            ReliabilityBin(
                low=round(float(place) / CALIBRATION_BINS, 6),
                high=round(float(place + 1) / CALIBRATION_BINS, 6),
                rows=rows,
                confidence=round(float(answers.confidence[chosen].mean()), 6),
                accuracy=Interval.of(hits / rows, float(low[0]), float(high[0])),
            )
        )
    return tuple(found)


def reliability_table(bins: tuple[ReliabilityBin, ...]) -> Table:
    """One row a bin."""
    return Table(
        "Confidence against truth",
        ("confidence", "rows", "mean confidence", "right"),
        tuple(
            (f"{100 * one.low:.0f} to {100 * one.high:.0f} %", f"{one.rows:,}", f"{one.confidence:.1%}",
             percent(one.accuracy))
            for one in bins
        ),
        "A well calibrated classifier is right as often as its mean confidence says.",
    )  # fmt: skip
