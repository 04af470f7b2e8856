"""Several classifiers on the same rows: differences to the first, tests corrected for their number, disagreements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np
from pydantic import Field

from graftwork.evaluation.compare import mcnemar, paired_difference
from graftwork.evaluation.intervals import Floats, Ints
from graftwork.evaluation.results import Frozen, PairedDifference

Verdict = Literal["better", "worse", "no difference shown"]

_POWER = 0.8


class Challenge(Frozen):
    """One classifier against the first.

    Attributes:
        name: the classifier.
        against: the first one.
        accuracy: difference of accuracy, with the exact test.
        macro_f1: difference of macro-F1.
        log_loss: difference of log loss; below zero is good.
        p_value: of the exact test on accuracy, corrected for the number of classifiers (Holm).
        verdict: on accuracy: the interval lies on one side of zero and the corrected test agrees.
        rows_needed: about so many rows would show a difference of the size found, four times in five; None when there
            was no difference or the rows sufficed.
    """

    name: str
    against: str
    accuracy: PairedDifference
    macro_f1: PairedDifference
    log_loss: PairedDifference
    p_value: float
    verdict: Verdict
    rows_needed: int | None


class Disagreement(Frozen):
    """A row on which not all say the same.

    Attributes:
        row: index among the rows compared.
        truth: its label.
        answers: what each classifier says, in their order.
    """

    row: int
    truth: str
    answers: tuple[str, ...]


class Comparison(Frozen):
    """Classifiers compared on the same rows.

    Attributes:
        rows: number of rows.
        level: confidence level of the intervals and of the test.
        challenges: every classifier but the first, against it.
        disagreements: rows on which they differ; those on which the first is right and others wrong, or the other way
            round, come first.
    """

    rows: int = Field(ge=1)
    level: float
    challenges: tuple[Challenge, ...]
    disagreements: tuple[Disagreement, ...]


def compare_classifiers(
    probabilities: Mapping[str, Floats], truth: Ints, labels: Sequence[str], *, level: float = 0.95, seed: int = 0
) -> Comparison:
    """Compare classifiers with the first of them.

    Args:
        probabilities: by the name of the classifier, `[rows, classes]`; at least two.
        truth: class indices `[rows]`.
        labels: names of the classes, in the order of the columns of all.
        level: confidence level.
        seed: of the resamples.

    Raises:
        ValueError: shapes that do not fit, no rows, or numbers that are no probabilities.

    Example:
        >>> truth = np.zeros(40, dtype=np.int64)
        >>> good, poor = np.tile([0.9, 0.1], (40, 1)), np.tile([0.9, 0.1], (40, 1))
        >>> poor[:12] = [0.2, 0.8]
        >>> found = compare_classifiers({"old": poor, "new": good}, truth, ["ham", "spam"])
        >>> found.challenges[0].verdict, len(found.disagreements)
        ('better', 12)
    """
    (first, start), *others = probabilities.items()
    pairs = {
        name: {
            metric: paired_difference(metric, mine, start, truth, seed=seed, level=level)
            for metric in ("accuracy", "macro_f1", "log_loss")
        }
        for name, mine in others
    }
    corrected = holm([mcnemar(pair["accuracy"].only_a, pair["accuracy"].only_b) for pair in pairs.values()])
    challenges = tuple(
        _challenge(name, first, pair, p_value) for (name, pair), p_value in zip(pairs.items(), corrected, strict=True)
    )
    return Comparison(
        rows=len(truth),
        level=level,
        challenges=challenges,
        disagreements=_disagreements([p.argmax(axis=1) for p in probabilities.values()], truth, labels),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number by Holm's step-down method (Scand. J. Statist. 6, 1979), in the order given.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def rows_needed(only_a: int, only_b: int, rows: int, *, level: float = 0.95) -> int | None:
    """Rows on which McNemar's test would show a difference of the size found, with a power of 0.8.

    Connor's formula for paired proportions (Biometrics 43, 1987). It takes the difference that was found for the true
    one, so it is a hint of the order of magnitude. None where there was no difference.

    Args:
        only_a: rows that a alone has right.
        only_b: rows that b alone has right.
        rows: rows compared.
        level: confidence level of the test.

    Example:
        >>> rows_needed(30, 20, 500), rows_needed(5, 5, 100)
        (1960, None)
    """
    if only_a == only_b:
        return None
    disputed, difference = (only_a + only_b) / rows, abs(only_a - only_b) / rows
    normal = NormalDist()
    error, power = normal.inv_cdf((1 + level) / 2), normal.inv_cdf(_POWER)
    wanted = error * math.sqrt(disputed) + power * math.sqrt(disputed - difference**2)
    return math.ceil((wanted / difference) ** 2)


def _challenge(name: str, against: str, pair: Mapping[str, PairedDifference], p_value: float) -> Challenge:
    accuracy = pair["accuracy"].model_copy(update={"p_value": p_value})
    verdict: Verdict = "no difference shown"
    if accuracy.better is not None:
        verdict = "better" if accuracy.better == "a" else "worse"
    needed = None
    if verdict == "no difference shown":
        found = rows_needed(accuracy.only_a, accuracy.only_b, accuracy.rows, level=accuracy.level)
        needed = found if found is not None and found > accuracy.rows else None
    return Challenge(
        name=name,
        against=against,
        accuracy=pair["accuracy"],
        macro_f1=pair["macro_f1"],
        log_loss=pair["log_loss"],
        p_value=round(p_value, 6),
        verdict=verdict,
        rows_needed=needed,
    )


def _disagreements(predicted: Sequence[Ints], truth: Ints, labels: Sequence[str]) -> tuple[Disagreement, ...]:
    answers = np.stack(predicted, axis=1)
    differ = np.flatnonzero((answers != answers[:, :1]).any(axis=1))
    right = answers[differ] == truth[differ, None]
    # Nobody being right settles nothing, so those come last.
    order = differ[np.argsort(~right.any(axis=1), kind="stable")]
    return tuple(
        Disagreement(row=int(row), truth=labels[truth[row]], answers=tuple(labels[a] for a in answers[row]))
        for row in order
    )
