"""What transfer was worth: an adapter beside training from scratch and beside the probe, on the same rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from graftwork.evaluation.compare import mcnemar, paired_difference
from graftwork.evaluation.comparison import holm
from graftwork.evaluation.evaluate import Answers, checked_probabilities, checked_truth
from graftwork.evaluation.intervals import Floats, Ints, draw_rows, wilson_limits
from graftwork.evaluation.results import Frozen, Interval, PairedDifference

Verdict = Literal["helped", "hurt", "no difference shown"]
Flags = NDArray[np.bool_]

_RESAMPLES = 1000


@dataclass(frozen=True)
class ReferenceRun:
    """Another way to a classifier from the same rows.

    Attributes:
        probabilities: of the test rows `[rows, classes]`.
        seconds: that it took.
    """

    probabilities: Floats
    seconds: float


class Against(Frozen):
    """The adapter against one reference.

    Attributes:
        name: the reference.
        accuracy: the reference's own.
        ratio: transfer ratio: the adapter's accuracy over the reference's.
        difference: of accuracy, paired, with the exact test.
        macro_f1: difference of macro-F1, paired.
        p_value: of the exact test, corrected for the number of references (Holm).
        verdict: what transfer did for accuracy, measured by this reference.
        seconds: that the reference took.
        times_faster: seconds of the reference over those of the adapter; None when these are not known.
    """

    name: str
    accuracy: Interval
    ratio: Interval
    difference: PairedDifference
    macro_f1: PairedDifference
    p_value: float
    verdict: Verdict
    seconds: float
    times_faster: float | None


class CurvePoint(Frozen):
    """Accuracy after training on so many rows.

    Attributes:
        rows: to train on.
        draws: how often rows were drawn.
        accuracy: mean over the draws; the interval counts the chance of the draws and of the test rows.
    """

    rows: int = Field(ge=1)
    draws: int = Field(ge=1)
    accuracy: Interval


class RowsNeeded(Frozen):
    """Rows after which a learning curve reaches a level; None where it was never reached.

    Attributes:
        rows: by interpolation between the numbers tried, on a logarithmic scale; the smallest number tried when that
            one reaches it already.
        low: lower limit.
        high: upper limit.
    """

    rows: int | None
    low: int | None
    high: int | None


class Curve(Frozen):
    """A learning curve.

    Attributes:
        name: what was trained.
        points: by rising number of rows.
        needed: rows it needs to be as good as the other curve's last point; None when there is no other.
        of: the name of that other curve.
    """

    name: str
    points: tuple[CurvePoint, ...]
    needed: RowsNeeded | None = None
    of: str | None = None


class TransferReport(Frozen):
    """What transfer was worth.

    Attributes:
        test_rows: rows judged on.
        train_rows: rows trained on.
        accuracy: the adapter's, on the test rows.
        gap: generalisation gap: its accuracy on the training rows minus that on the test rows.
        against: one entry a reference; the verdict of the whole is that of the best trained from scratch.
        curves: learning curves.
        level: confidence level of all intervals and tests.
    """

    test_rows: int = Field(ge=1)
    train_rows: int = Field(ge=1)
    accuracy: Interval
    gap: Interval
    against: tuple[Against, ...]
    curves: tuple[Curve, ...]
    level: float


def compare_with_references(
    own: ReferenceRun,
    references: Mapping[str, ReferenceRun],
    truth: Ints,
    *,
    seconds_known: bool = True,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Against, ...]:
    """An adapter against each of several references, on the same test rows.

    Args:
        own: the adapter's answers and seconds.
        references: by name.
        truth: class indices `[rows]`.
        seconds_known: whether `own.seconds` is what the adapter took.
        level: confidence level.
        seed: of the resamples.

    Raises:
        ValueError: shapes that do not fit, no rows, or numbers that are no probabilities.
    """
    measured = {
        name: {
            metric: paired_difference(metric, own.probabilities, run.probabilities, truth, seed=seed, level=level)
            for metric in ("accuracy", "macro_f1")
        }
        for name, run in references.items()
    }
    corrected = holm([mcnemar(pair["accuracy"].only_a, pair["accuracy"].only_b) for pair in measured.values()])
    return tuple(
        Against(
            name=name,
            accuracy=accuracy_of(run.probabilities, truth, level=level),
            ratio=_ratio(own.probabilities, run.probabilities, truth, level=level, seed=seed),
            difference=measured[name]["accuracy"],
            macro_f1=measured[name]["macro_f1"],
            p_value=round(p_value, 6),
            verdict=_verdict(measured[name]["accuracy"], p_value, level),
            seconds=round(run.seconds, 3),
            times_faster=round(run.seconds / own.seconds, 2) if seconds_known and own.seconds > 0 else None,
        )
        for (name, run), p_value in zip(references.items(), corrected, strict=True)
    )


def accuracy_of(probabilities: Floats, truth: Ints, *, level: float = 0.95) -> Interval:
    """Accuracy with its Wilson interval."""
    right = _right(probabilities, truth)
    low, high = wilson_limits(np.array([right.sum()]), np.array([len(right)]), level)
    return Interval.of(float(right.mean()), float(low[0]), float(high[0]))


def generalisation_gap(trained: Interval, tested: Interval) -> Interval:
    """Accuracy on training rows minus accuracy on test rows.

    Newcombe's hybrid score interval for two independent proportions (Statistics in Medicine 17, 1998, method 10).

    Example:
        >>> generalisation_gap(Interval.of(0.9, 0.8, 0.95), Interval.of(0.8, 0.7, 0.9))
        Interval(value=0.1, low=-0.041421, high=0.211803)
    """
    value = trained.value - tested.value
    below = math.hypot(trained.value - trained.low, tested.high - tested.value)
    above = math.hypot(trained.high - trained.value, tested.value - tested.low)
    return Interval.of(value, value - below, value + above)


def learning_curves(
    answers: Mapping[str, Mapping[int, Sequence[Floats]]], truth: Ints, *, level: float = 0.95, seed: int = 0
) -> tuple[Curve, ...]:
    """Learning curves of ways to train, and with how many rows each is as good as the first of the others at its last.

    Test rows are drawn again for all curves at once, draws of training rows for each point by itself. Between two
    points accuracy is taken to rise evenly with the logarithm of the rows, and never to fall.

    Args:
        answers: by name of the curve and number of training rows: probabilities `[rows, classes]` of each draw.
        truth: class indices `[rows]` of the test rows.
        level: confidence level.
        seed: of the resamples.

    Raises:
        ValueError: shapes that do not fit, no rows, or numbers that are no probabilities.
    """
    drawn = _Drawn.of(answers, truth, seed)
    names = list(answers)
    curves = []
    for name in names:
        points = tuple(
            CurvePoint(rows=rows, draws=len(answers[name][rows]), accuracy=drawn.accuracy(name, place, level))
            for place, rows in enumerate(drawn.counts[name])
        )
        other = next((found for found in names if found != name), None)
        needed = None if other is None else drawn.rows_needed(name, other, level)
        curves.append(Curve(name=name, points=points, needed=needed, of=other))
    return tuple(curves)


@dataclass(frozen=True)
class _Drawn:
    """Accuracies of curves on all rows and on resamples.

    Attributes:
        counts: numbers of training rows, rising, by curve.
        accuracies: `[1 + resamples, points]` by curve; the first line is of all rows and draws.
    """

    counts: dict[str, list[int]]
    accuracies: dict[str, Floats]

    @classmethod
    def of(cls, answers: Mapping[str, Mapping[int, Sequence[Floats]]], truth: Ints, seed: int) -> _Drawn:
        counts = {name: sorted(points) for name, points in answers.items()}
        rows = np.concatenate(list(draw_rows(len(truth), _RESAMPLES, seed)))
        generator = np.random.default_rng([seed, 1])
        accuracies = {}
        for name, points in answers.items():
            columns = []
            for count in counts[name]:
                right = np.stack([_right(one, truth) for one in points[count]])
                chosen = generator.integers(len(right), size=(_RESAMPLES, len(right)))
                resampled = np.stack([right[:, places].mean(axis=1) for places in rows])  # [resamples, draws]
                means = np.take_along_axis(resampled, chosen, axis=1).mean(axis=1)
                columns.append(np.concatenate([[right.mean()], means]))
            accuracies[name] = np.stack(columns, axis=1)
        return cls(counts, accuracies)

    def accuracy(self, name: str, place: int, level: float) -> Interval:
        values = self.accuracies[name][:, place]
        low, high = np.quantile(values[1:], [(1 - level) / 2, (1 + level) / 2])
        return Interval.of(float(values[0]), float(low), float(high))

    def rows_needed(self, name: str, other: str, level: float) -> RowsNeeded:
        targets = self.accuracies[other][:, -1]
        found = [
            crossing(self.counts[name], line, target)
            for line, target in zip(self.accuracies[name], targets, strict=True)
        ]
        low, high = np.quantile(found[1:], [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
        value = found[0]
        return RowsNeeded(rows=_whole(value), low=_whole(min(low, value)), high=_whole(max(high, value)))


def crossing(counts: Sequence[int], accuracies: Floats, target: float) -> float:
    """Rows after which a curve reaches an accuracy; infinite when it does not.

    Args:
        counts: rising numbers of rows.
        accuracies: at each; where they fall they are levelled (isotonic regression).
        target: the accuracy to reach.

    Example:
        >>> round(crossing([100, 400], np.array([0.6, 0.8]), 0.7)), crossing([100, 400], np.array([0.6, 0.8]), 0.9)
        (200, inf)
    """
    from sklearn.isotonic import isotonic_regression

    levelled = isotonic_regression(accuracies)
    above = np.flatnonzero(levelled >= target - 1e-12)
    if not len(above):
        return math.inf
    place = int(above[0])
    if place == 0:
        return float(counts[0])
    share = (target - levelled[place - 1]) / (levelled[place] - levelled[place - 1])
    return float(counts[place - 1] * (counts[place] / counts[place - 1]) ** min(share, 1.0))


def _whole(rows: float) -> int | None:
    return None if math.isinf(rows) else math.ceil(rows - 1e-9)


def _right(probabilities: Floats, truth: Ints) -> Flags:
    classes = np.asarray(probabilities).shape[-1]
    checked = checked_probabilities(probabilities, len(truth), classes)
    answers = Answers.of(checked, checked_truth(truth, classes))
    return np.asarray(answers.predicted == answers.truth, dtype=np.bool_)


def _ratio(own: Floats, other: Floats, truth: Ints, *, level: float, seed: int) -> Interval:
    """Percentile interval of the ratio of accuracies on the same resamples; the least divided by is half a row."""
    first, second = _right(own, truth), _right(other, truth)
    least = 0.5 / len(truth)
    ratios = [
        first[draws].mean(axis=1) / np.maximum(second[draws].mean(axis=1), least)
        for draws in draw_rows(len(truth), _RESAMPLES, seed)
    ]
    low, high = np.quantile(np.concatenate(ratios), [(1 - level) / 2, (1 + level) / 2])
    return Interval.of(float(first.mean() / max(second.mean(), least)), float(low), float(high))


def _verdict(found: PairedDifference, p_value: float, level: float) -> Verdict:
    if p_value >= 1 - level or found.better is None:
        return "no difference shown"
    return "helped" if found.better == "a" else "hurt"
