"""Metrics as functions of counts and of rows, written so that they run over many resamples at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graftwork.evaluation.intervals import Floats, Ints, wilson_limits

CALIBRATION_BINS = 15
# The smallest step of float64 at 1, as scikit-learn clips: a probability of exactly 0 costs 36.04 nats, not infinity.
SMALLEST_PROBABILITY = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Counts:
    """What the confusion-based metrics need, for one or many sets of rows.

    Attributes:
        support: rows of each class `[..., classes]`.
        predicted: rows that were given each class `[..., classes]`.
        hits: rows of each class that were given it `[..., classes]`.
    """

    support: Ints
    predicted: Ints
    hits: Ints

    @property
    def accuracy(self) -> Floats:
        """Share of rows that are right `[...]`."""
        return np.asarray(self.hits.sum(axis=-1) / self.support.sum(axis=-1), dtype=np.float64)

    @property
    def precision(self) -> Floats:
        """Precision by class `[..., classes]`, NaN where the class was never predicted."""
        return _ratio(self.hits, self.predicted)

    @property
    def recall(self) -> Floats:
        """Recall by class `[..., classes]`, NaN where the class has no rows."""
        return _ratio(self.hits, self.support)

    @property
    def f1(self) -> Floats:
        """F1 by class `[..., classes]`, NaN where the class neither occurs nor is predicted."""
        return _ratio(2 * self.hits, self.support + self.predicted)

    @property
    def macro_f1(self) -> Floats:
        """Mean F1 over the classes that occur or are predicted `[...]`."""
        f1 = self.f1
        defined = ~np.isnan(f1)
        return np.asarray(np.where(defined, f1, 0.0).sum(axis=-1) / defined.sum(axis=-1), dtype=np.float64)


def _ratio(above: Ints, below: Ints) -> Floats:
    return np.where(below > 0, above / np.maximum(below, 1), np.nan)


def count(truth: Ints, predicted: Ints, classes: int) -> Counts:
    """Count hits over the last axis.

    Args:
        truth: class indices `[sets, rows]`.
        predicted: class indices of the same shape.
        classes: number of classes.

    Returns:
        Counts `[sets, classes]`.
    """
    sets = len(truth)
    # One bincount for all sets: each set counts into its own range of cells.
    offset = np.arange(sets)[:, None] * classes
    cells = truth + offset

    def table(indices: Ints) -> Ints:
        return np.bincount(indices.ravel(), minlength=sets * classes).reshape(sets, classes)

    return Counts(support=table(cells), predicted=table(predicted + offset), hits=table(cells[truth == predicted]))


def confusion_matrix(truth: Ints, predicted: Ints, classes: int) -> Ints:
    """Counts `[classes, classes]`, rows the truth, columns the prediction."""
    return np.bincount(truth * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def macro_f1_left_out(truth: Ints, predicted: Ints, counts: Counts) -> Floats:
    """Macro-F1 with each row left out `[rows]`, without counting anew: a row touches two classes at most.

    Args:
        truth: class indices `[rows]`, at least two rows.
        predicted: class indices `[rows]`.
        counts: counts of these rows, `[1, classes]`.
    """
    hits, size = counts.hits[0], (counts.support + counts.predicted)[0]
    right = (truth == predicted).astype(np.int64)
    total = np.where(size > 0, 2 * hits / np.maximum(size, 1), 0.0).sum()
    occurring = np.full(len(truth), np.sum(size > 0))
    sums = np.full(len(truth), total)
    for touched, taken, counted in ((truth, 1 + right, np.ones_like(right)), (predicted, 1 + right, 1 - right)):
        # A row that is right touches one class, twice: it is handled once.
        before = 2 * hits[touched] / size[touched]
        left = size[touched] - taken
        after = np.where(left > 0, 2 * (hits[touched] - right) / np.maximum(left, 1), 0.0)
        sums = sums + counted * (after - before)
        occurring = occurring - counted * (left == 0)
    return np.asarray(sums / occurring, dtype=np.float64)


def f1_score_limits(counts: Counts, level: float) -> tuple[Floats, Floats]:
    """Score interval of each class's F1 `[classes]` from counts `[1, classes]`.

    F1 is a rising function of the Jaccard index hits / (support + predicted - hits), which is a proportion and has a
    Wilson interval.
    """
    hits = counts.hits[0]
    low, high = wilson_limits(hits, (counts.support + counts.predicted)[0] - hits, level)
    return 2 * low / (1 + low), 2 * high / (1 + high)


def macro_f1_score_limits(counts: Counts, level: float) -> tuple[float, float]:
    """Score interval of macro-F1: the classes' distances to their limits, added in quadrature (MOVER)."""
    f1 = counts.f1[0]
    low, high = f1_score_limits(counts, level)
    occurring = ~np.isnan(f1)
    value, classes = float(counts.macro_f1[0]), int(occurring.sum())
    down = float(np.sqrt(np.sum((f1 - low)[occurring] ** 2))) / classes
    up = float(np.sqrt(np.sum((high - f1)[occurring] ** 2))) / classes
    return max(0.0, value - down), min(1.0, value + up)


def log_losses(probabilities: Floats, truth: Ints) -> Floats:
    """Negative log probability of the true class of each row `[rows]`, nats."""
    chosen = probabilities[np.arange(len(truth)), truth]
    return -np.log(np.clip(chosen, SMALLEST_PROBABILITY, 1.0))


def calibration_bins(confidence: Floats) -> Ints:
    """Bin of each confidence: bin b holds those above b/15 up to and including (b+1)/15."""
    inner = np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS
    return np.asarray(np.searchsorted(inner, confidence, side="left"), dtype=np.int64)


def calibration_error(bins: Ints, gaps: Floats) -> Floats:
    """Expected calibration error over the last axis.

    Args:
        bins: bin of each row `[sets, rows]`.
        gaps: one or zero for right or wrong, minus the confidence `[sets, rows]`.

    Returns:
        `[sets]`: the rows' mean absolute gap between accuracy and confidence of their bin.
    """
    sets, rows = gaps.shape
    cells = bins + np.arange(sets)[:, None] * CALIBRATION_BINS
    sums = np.bincount(cells.ravel(), weights=gaps.ravel(), minlength=sets * CALIBRATION_BINS)
    return np.asarray(np.abs(sums.reshape(sets, CALIBRATION_BINS)).sum(axis=1) / rows, dtype=np.float64)
