"""Two classifiers on the same rows: is one better beyond chance."""

from __future__ import annotations

import numpy as np

from graftwork.evaluation.evaluate import Answers, checked_probabilities, checked_truth
from graftwork.evaluation.intervals import Floats, Ints, bca_limits, draw_rows
from graftwork.evaluation.metrics import count, macro_f1_left_out
from graftwork.evaluation.results import Interval, Metric, PairedDifference


def paired_difference(
    metric: Metric,
    a: Floats,
    b: Floats,
    truth: Ints,
    *,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> PairedDifference:
    """Compare classifier a with classifier b, row by row.

    Both are measured on the same resamples, so rows that are hard for both cancel out and the interval is far
    narrower than the two separate ones.

    Args:
        metric: `accuracy`, `macro_f1` or `log_loss`.
        a: probabilities `[rows, classes]`.
        b: probabilities of the same shape.
        truth: class indices `[rows]`.
        seed: seed of the resamples.
        resamples: number of bootstrap resamples.
        level: confidence level of the interval.

    Returns:
        Metric of a minus metric of b with a BCa interval, and the exact McNemar test; `.better` reads them.

    Raises:
        ValueError: shapes that do not fit, no rows, or numbers that are no probabilities.

    Example:
        >>> truth = np.zeros(40, dtype=np.int64)
        >>> good, poor = np.tile([0.9, 0.1], (40, 1)), np.tile([0.9, 0.1], (40, 1))
        >>> poor[:12] = [0.2, 0.8]
        >>> found = paired_difference("accuracy", good, poor, truth)
        >>> found.difference.value, found.only_a, found.only_b, found.better
        (0.3, 12, 0, 'a')
    """
    rows, classes = np.asarray(a).shape
    truth = checked_truth(truth, classes)
    first = Answers.of(checked_probabilities(a, len(truth), classes), truth)
    second = Answers.of(checked_probabilities(b, len(truth), classes), truth)
    everything = np.arange(rows)[None]
    value = float(_difference(metric, first, second, everything)[0])
    resampled = np.concatenate(
        [_difference(metric, first, second, draws) for draws in draw_rows(rows, resamples, seed)]
    )
    left_out = _left_out(metric, first) - _left_out(metric, second)
    only_a = int(np.sum((first.predicted == truth) & (second.predicted != truth)))
    only_b = int(np.sum((first.predicted != truth) & (second.predicted == truth)))
    return PairedDifference(
        metric=metric,
        difference=Interval.of(value, *bca_limits(value, resampled, left_out, level)),
        p_value=round(mcnemar(only_a, only_b), 6),
        only_a=only_a,
        only_b=only_b,
        rows=rows,
        level=level,
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided p-value of the exact McNemar test.

    Args:
        only_a: rows that a alone has right.
        only_b: rows that b alone has right.

    Example:
        >>> mcnemar(3, 0), mcnemar(0, 0)
        (0.25, 1.0)
    """
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def _difference(metric: Metric, a: Answers, b: Answers, draws: Ints) -> Floats:
    """Metric of a minus metric of b on each set of rows `[sets]`."""
    return _measure(metric, a, draws) - _measure(metric, b, draws)


def _measure(metric: Metric, answers: Answers, draws: Ints) -> Floats:
    if metric == "log_loss":
        return np.asarray(answers.losses[draws].mean(axis=1), dtype=np.float64)
    if metric == "accuracy":
        return np.asarray((answers.truth == answers.predicted)[draws].mean(axis=1), dtype=np.float64)
    return count(answers.truth[draws], answers.predicted[draws], answers.classes).macro_f1


def _left_out(metric: Metric, answers: Answers) -> Floats:
    """The metric with each row left out `[rows]`, up to a constant."""
    if metric == "macro_f1":
        if len(answers.truth) == 1:
            return np.zeros(1)
        return macro_f1_left_out(answers.truth, answers.predicted, answers.counts)
    values = answers.losses if metric == "log_loss" else (answers.truth == answers.predicted).astype(np.float64)
    return -values / max(len(values) - 1, 1)
