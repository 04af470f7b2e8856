"""Judge a classifier on test rows, beside the majority class and the probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graftwork.evaluation.intervals import (
    Floats,
    Ints,
    basic_limits,
    bca_limits,
    draw_rows,
    percentile_limits,
    wilson_limits,
)
from graftwork.evaluation.metrics import (
    Counts,
    calibration_bins,
    calibration_error,
    confusion_matrix,
    count,
    f1_score_limits,
    log_losses,
    macro_f1_left_out,
    macro_f1_score_limits,
)
from graftwork.evaluation.results import Baseline, ClassMetrics, Evaluation, Interval


@dataclass(frozen=True)
class Answers:
    """What a classifier said about rows whose truth is known.

    Attributes:
        truth: class indices `[rows]`.
        predicted: the most probable class `[rows]`; the first of several equally probable ones.
        losses: negative log probability of the truth `[rows]`, nats.
        confidence: probability of `predicted` `[rows]`.
        classes: number of classes.
    """

    truth: Ints
    predicted: Ints
    losses: Floats
    confidence: Floats
    classes: int

    @classmethod
    def of(cls, probabilities: Floats, truth: Ints) -> Answers:
        """Take them from probabilities `[rows, classes]`."""
        predicted = np.asarray(probabilities.argmax(axis=1), dtype=np.int64)
        return cls(
            truth=truth,
            predicted=predicted,
            losses=log_losses(probabilities, truth),
            confidence=probabilities[np.arange(len(truth)), predicted],
            classes=probabilities.shape[1],
        )

    @property
    def counts(self) -> Counts:
        """Counts `[1, classes]` over all rows."""
        return count(self.truth[None], self.predicted[None], self.classes)

    @property
    def bins(self) -> Ints:
        """Calibration bin of each row `[rows]`."""
        return calibration_bins(self.confidence)

    @property
    def gaps(self) -> Floats:
        """One or zero for right or wrong, minus the confidence `[rows]`."""
        return np.asarray((self.truth == self.predicted) - self.confidence, dtype=np.float64)


@dataclass(frozen=True)
class Resampled:
    """The same metrics on every resample.

    Attributes:
        counts: `[resamples, classes]`.
        log_loss: `[resamples]`.
        calibration_error: `[resamples]`.
    """

    counts: Counts
    log_loss: Floats
    calibration_error: Floats

    @classmethod
    def of(cls, answers: Answers, resamples: int, seed: int) -> Resampled:
        """Draw the resamples and measure each."""
        bins, gaps = answers.bins, answers.gaps
        counts, losses, errors = [], [], []
        for draws in draw_rows(len(answers.truth), resamples, seed):
            counts.append(count(answers.truth[draws], answers.predicted[draws], answers.classes))
            losses.append(answers.losses[draws].mean(axis=1))
            errors.append(calibration_error(bins[draws], gaps[draws]))
        merged = Counts(
            support=np.concatenate([part.support for part in counts]),
            predicted=np.concatenate([part.predicted for part in counts]),
            hits=np.concatenate([part.hits for part in counts]),
        )
        return cls(merged, np.concatenate(losses), np.concatenate(errors))


def evaluate(
    probabilities: Floats,
    truth: Ints,
    labels: Sequence[str],
    *,
    majority: int,
    prior: Floats | None = None,
    probe_probabilities: Floats | None = None,
    dataset_digest: str,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Evaluation:
    """Measure a classifier on test rows.

    All classifiers are measured on the same bootstrap resamples of the rows. What kind of interval each metric has, and
    how well they cover, is told in `docs/evaluation.md`.

    Args:
        probabilities: `[rows, classes]`, each row summing to one.
        truth: class index of each row `[rows]`.
        labels: label names in the order of the columns.
        majority: index of the most frequent class in training.
        prior: share of each class in training `[classes]`: the probabilities of the majority baseline.
        probe_probabilities: the probe's, `[rows, classes]`; None where the classifier is the probe.
        dataset_digest: digest of the test rows.
        seed: seed of the resamples; the same arguments give the same evaluation, bit for bit.
        resamples: number of bootstrap resamples.
        level: confidence level of the intervals.

    Returns:
        The evaluation.

    Raises:
        ValueError: shapes that do not fit, no rows, or numbers that are no probabilities.

    Example:
        >>> report = evaluate(
        ...     np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]]),
        ...     np.array([0, 1, 1, 1]),
        ...     ["ham", "spam"],
        ...     majority=1,
        ...     dataset_digest="0" * 64,
        ... )
        >>> report.accuracy.value, report.majority.accuracy.value, report.confusion
        (0.75, 0.75, ((1, 0), (1, 2)))
    """
    probabilities = checked_probabilities(probabilities, len(truth), len(labels))
    truth = checked_truth(truth, len(labels))
    if not 0 <= majority < len(labels):
        raise ValueError(f"the majority class {majority} is not one of {len(labels)} classes")
    answers = Answers.of(probabilities, truth)
    resampled = Resampled.of(answers, resamples, seed)
    baseline = _baseline(_majority_answers(truth, majority, prior, len(labels)), resamples, seed, level)
    probe = None
    if probe_probabilities is not None:
        probe_answers = Answers.of(checked_probabilities(probe_probabilities, len(truth), len(labels)), truth)
        probe = _baseline(probe_answers, resamples, seed, level)
    return Evaluation(
        rows=len(truth),
        classes=tuple(labels),
        accuracy=_accuracy(answers, resampled, level),
        macro_f1=_macro_f1(answers, resampled, level),
        log_loss=_log_loss(answers, resampled, level),
        calibration_error=_calibration(answers, resampled, level, seed),
        per_class=_per_class(answers, resampled, labels, level),
        confusion=tuple(map(tuple, confusion_matrix(truth, answers.predicted, len(labels)).tolist())),
        majority_label=labels[majority],
        majority=baseline if prior is not None else baseline.model_copy(update={"log_loss": None}),
        probe=probe,
        dataset_digest=dataset_digest,
        level=level,
        resamples=resamples,
        seed=seed,
    )


def checked_probabilities(probabilities: Floats, rows: int, classes: int) -> Floats:
    """Probabilities as float64, after a check that they are some.

    Raises:
        ValueError: another shape, no rows, values that are not finite or not in 0..1, rows that do not sum to one.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.shape != (rows, classes) or rows == 0:
        raise ValueError(f"probabilities of shape {probabilities.shape}, where {rows} rows x {classes} classes belong")
    if not np.all((probabilities >= 0) & (probabilities <= 1 + 1e-6)):
        raise ValueError("probabilities outside 0..1, or not finite")
    if np.any(np.abs(probabilities.sum(axis=1) - 1) > 1e-3):
        raise ValueError("probabilities of a row do not sum to one")
    return probabilities


def checked_truth(truth: Ints, classes: int) -> Ints:
    """Class indices as int64, after a check that they are some.

    Raises:
        ValueError: an index that is no class.
    """
    truth = np.asarray(truth, dtype=np.int64)
    if truth.ndim != 1 or np.any((truth < 0) | (truth >= classes)):
        raise ValueError(f"the truth must be one class index a row, from 0 to {classes - 1}")
    return truth


def _accuracy(answers: Answers, resampled: Resampled, level: float) -> Interval:
    right = (answers.truth == answers.predicted).astype(np.int64)
    value = float(right.mean())
    low, high = bca_limits(value, resampled.counts.accuracy, _mean_left_out(right), level)
    score_low, score_high = wilson_limits(right.sum()[None], np.array([len(right)]), level)
    return Interval.of(value, min(low, float(score_low[0])), max(high, float(score_high[0])))


def _macro_f1(answers: Answers, resampled: Resampled, level: float) -> Interval:
    counts = answers.counts
    value = float(counts.macro_f1[0])
    left_out = (
        macro_f1_left_out(answers.truth, answers.predicted, counts) if len(answers.truth) > 1 else np.array([value])
    )
    low, high = bca_limits(value, resampled.counts.macro_f1, left_out, level)
    score_low, score_high = macro_f1_score_limits(counts, level)
    return Interval.of(value, min(low, score_low), max(high, score_high))


def _log_loss(answers: Answers, resampled: Resampled, level: float) -> Interval:
    value = float(answers.losses.mean())
    return Interval.of(value, *bca_limits(value, resampled.log_loss, _mean_left_out(answers.losses), level))


def _mean_left_out(values: Floats | Ints) -> Floats:
    """The mean with each value left out `[rows]`."""
    return np.asarray((values.sum() - values) / max(len(values) - 1, 1), dtype=np.float64)


def _calibration(answers: Answers, resampled: Resampled, level: float, seed: int) -> Interval:
    """Basic bootstrap interval, down to 0 where the rows do not refute perfect calibration.

    The error is a sum of absolute values, so chance alone makes it positive, and resampling adds the same bias again.
    The basic interval takes the second back. For the first, answers are drawn that are right exactly as often as the
    confidence says: an error that they reach too is no evidence of any.
    """
    value = float(calibration_error(answers.bins[None], answers.gaps[None])[0])
    low, high = basic_limits(value, resampled.calibration_error, level)
    generator = np.random.default_rng([seed, 1])
    calibrated = []
    for draws in draw_rows(len(answers.truth), len(resampled.log_loss), seed):
        gaps = (generator.random(draws.shape) < answers.confidence) - answers.confidence
        calibrated.append(calibration_error(np.broadcast_to(answers.bins, draws.shape), gaps))
    if value <= np.quantile(np.concatenate(calibrated), (1 + level) / 2):
        low = 0.0
    return Interval.of(value, max(low, 0.0), min(high, 1.0))


def _per_class(answers: Answers, resampled: Resampled, labels: Sequence[str], level: float) -> tuple[ClassMetrics, ...]:
    counts = answers.counts

    def intervals(values: Floats, draws: Floats, score: tuple[Floats, Floats]) -> list[Interval]:
        low, high = percentile_limits(draws, level)
        lows, highs = np.fmin(low, score[0]), np.fmax(high, score[1])  # fmin and fmax pass over NaN
        return [Interval.of(*limits) for limits in zip(np.nan_to_num(values[0]), lows, highs, strict=True)]

    precision = intervals(
        counts.precision, resampled.counts.precision, wilson_limits(counts.hits[0], counts.predicted[0], level)
    )
    recall = intervals(counts.recall, resampled.counts.recall, wilson_limits(counts.hits[0], counts.support[0], level))
    f1 = intervals(counts.f1, resampled.counts.f1, f1_score_limits(counts, level))
    return tuple(
        ClassMetrics(
            label=label,
            support=int(counts.support[0, index]),
            predicted=int(counts.predicted[0, index]),
            precision=precision[index],
            recall=recall[index],
            f1=f1[index],
        )
        for index, label in enumerate(labels)
    )


def _majority_answers(truth: Ints, majority: int, prior: Floats | None, classes: int) -> Answers:
    """Always the majority class, with the training shares as probabilities."""
    certain = np.zeros(classes)
    certain[majority] = 1.0
    shares = checked_probabilities(np.asarray(certain if prior is None else prior)[None], 1, classes)
    return Answers(
        truth=truth,
        predicted=np.full(len(truth), majority, dtype=np.int64),
        losses=log_losses(np.broadcast_to(shares, (len(truth), classes)), truth),
        confidence=np.full(len(truth), shares[0, majority]),
        classes=classes,
    )


def _baseline(answers: Answers, resamples: int, seed: int, level: float) -> Baseline:
    resampled = Resampled.of(answers, resamples, seed)
    return Baseline(
        accuracy=_accuracy(answers, resampled, level),
        macro_f1=_macro_f1(answers, resampled, level),
        log_loss=_log_loss(answers, resampled, level),
    )
