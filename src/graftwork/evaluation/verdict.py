"""What an evaluation comes to, in words: worth having, no better than something cheaper, or not to be told."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np

from graftwork.evaluation.comparison import rows_needed
from graftwork.evaluation.intervals import Floats, Ints
from graftwork.evaluation.results import Baseline, Evaluation, Frozen, Interval, PairedDifference
from graftwork.evaluation.tables import percent
from graftwork.evaluation.transfer import Against, ReferenceRun, TransferReport, compare_with_references
from graftwork.evaluation.transfer import Verdict as Outcome

Standing = Literal["better", "as good as cheaper", "worse", "cannot tell"]

MAJORITY = "the most frequent class"
PROBE = "the probe on the frozen model"
_PRECISE = 0.05  # half the width of an interval that tells good from middling


class Claim(Frozen):
    """A classifier against something cheaper, on the same rows.

    Attributes:
        against: what it is compared with.
        accuracy: of that.
        outcome: *helped* means that the classifier is better.
        difference: of accuracy, paired; None where only two separate intervals are known.
        rows_needed: about so many rows would show a difference of the size found, four times in five; None when the
            rows sufficed or there was no difference.
        sentence: all of it in words.
    """

    against: str
    accuracy: Interval
    outcome: Outcome
    difference: PairedDifference | None
    rows_needed: int | None
    sentence: str


class Verdict(Frozen):
    """What an evaluation comes to.

    Attributes:
        standing: in one word.
        headline: in one sentence.
        claims: what it stands on.
        remarks: what must be known with it, a sentence each.
    """

    standing: Standing
    headline: str
    claims: tuple[Claim, ...]
    remarks: tuple[str, ...] = ()


def paired_claims(own: Floats, cheaper: Mapping[str, Floats], truth: Ints, *, level: float = 0.95) -> tuple[Claim, ...]:
    """A classifier against cheaper ones on the same rows; p-values are corrected for their number (Holm).

    Args:
        own: probabilities `[rows, classes]`.
        cheaper: by what they are called, of the same shape.
        truth: class index of each row `[rows]`.
        level: confidence level.

    Raises:
        ValueError: shapes that do not fit, no rows, or numbers that are no probabilities.
    """
    runs = {name: ReferenceRun(probabilities, 0.0) for name, probabilities in cheaper.items()}
    found = compare_with_references(ReferenceRun(own, 0.0), runs, truth, seconds_known=False, level=level)
    return tuple(claim_of(one) for one in found)


def always(index: int, rows: int, classes: int) -> Floats:
    """Probabilities `[rows, classes]` of saying the same class every time."""
    certain = np.zeros((rows, classes))
    certain[:, index] = 1.0
    return certain


def scratch_claim(report: TransferReport) -> Claim | None:
    """The adapter against the best that was trained from scratch; None when nothing was."""
    scratch = [one for one in report.against if one.name.startswith("scratch")]
    if not scratch:
        return None
    best = max(scratch, key=lambda one: one.accuracy.value)
    return claim_of(best.model_copy(update={"name": f"the best training from scratch ({best.name})"}))


def claim_of(found: Against) -> Claim:
    """A comparison that was made, in words."""
    pair = found.difference
    points = _points(pair.difference)
    needed = None
    if found.verdict == "helped":
        sentence = f"Better than {found.name}: {points}."
    elif found.verdict == "hurt":
        sentence = f"Worse than {found.name}: {points}."
    else:
        needed = rows_needed(pair.only_a, pair.only_b, pair.rows, level=pair.level)
        needed = needed if needed is not None and needed > pair.rows else None
        sentence = f"No difference shown from {found.name}: {points} on {pair.rows:,} rows."
        if needed is not None:
            sentence += f" If it is that large, about {needed:,} rows would show it."
    return Claim(
        against=found.name,
        accuracy=found.accuracy,
        outcome=found.verdict,
        difference=pair,
        rows_needed=needed,
        sentence=sentence,
    )


def separate_claims(evaluation: Evaluation) -> tuple[Claim, ...]:
    """The same from a kept evaluation alone, whose rows are not at hand: intervals that do not meet tell a difference.

    That asks for more than a paired test does.
    """
    cheaper: dict[str, Baseline | None] = {MAJORITY: evaluation.majority, PROBE: evaluation.probe}
    return tuple(_separate(evaluation.accuracy, name, found) for name, found in cheaper.items() if found is not None)


def _separate(own: Interval, name: str, found: Baseline) -> Claim:
    other = found.accuracy
    outcome: Outcome = "no difference shown"
    if own.low > other.high:
        outcome = "helped"
    elif own.high < other.low:
        outcome = "hurt"
    words = {
        "helped": f"Better than {name}",
        "hurt": f"Worse than {name}",
        "no difference shown": f"No difference shown from {name}, by intervals that were taken apart",
    }
    sentence = f"{words[outcome]}: {percent(own)} against {percent(other)}."
    return Claim(against=name, accuracy=other, outcome=outcome, difference=None, rows_needed=None, sentence=sentence)


def verdict_of(evaluation: Evaluation, claims: Sequence[Claim]) -> Verdict:
    """What an evaluation comes to.

    A classifier that is not shown to beat the most frequent class cannot be told to be of use; one that something else
    beats is worse; one that nothing else beats and that beats all is better.
    """
    outcomes = {claim.against: claim.outcome for claim in claims}
    others = [outcome for name, outcome in outcomes.items() if name != MAJORITY]
    measured = f"{percent(evaluation.accuracy)} of {evaluation.rows:,} rows it had not seen are answered correctly"
    if outcomes.get(MAJORITY) == "hurt":
        standing, words = "worse", f"Do not use it: always saying '{evaluation.majority_label}' is right more often"
    elif "hurt" in others:
        beaten = next(name for name, outcome in outcomes.items() if outcome == "hurt")
        standing, words = "worse", f"It works, but {beaten} does better"
    elif outcomes.get(MAJORITY) != "helped":
        standing, words = "cannot tell", "Cannot tell whether it is of use"
    elif "no difference shown" in others:
        equal = next(name for name in outcomes if name != MAJORITY and outcomes[name] == "no difference shown")
        standing, words = "as good as cheaper", f"It works, but no gain over {equal} is shown"
    else:
        standing, words = "better", "It works" + (", and better than everything it was compared with" if others else "")
    return Verdict(
        standing=standing,
        headline=f"{words}: {measured}.",
        claims=tuple(claims),
        remarks=tuple(_remarks(evaluation, outcomes)),
    )


def _remarks(evaluation: Evaluation, outcomes: Mapping[str, Outcome]) -> list[str]:
    accuracy, rows = evaluation.accuracy, evaluation.rows
    remarks = []
    wanted = rows_for_precision(accuracy.value, level=evaluation.level)
    blurred = (accuracy.high - accuracy.low) / 2 > _PRECISE
    if rows < wanted and (blurred or outcomes.get(MAJORITY) == "no difference shown"):
        remarks.append(
            f"{rows:,} rows tell the accuracy to within {50 * (accuracy.high - accuracy.low):.0f} points; about "
            f"{wanted:,} would tell it to within {100 * _PRECISE:.0f}."
        )
    silent = [one.label for one in evaluation.per_class if not one.support]
    if silent:
        remarks.append(f"Nothing can be said of {_listed(silent)}: no row of the test has that label.")
    return remarks


def rows_for_precision(accuracy: float, *, within: float = _PRECISE, level: float = 0.95) -> int:
    """Rows on which an accuracy is told to within so much, by the Wilson interval.

    Args:
        accuracy: the true one, about.
        within: half the width of the interval.
        level: confidence level.

    Example:
        >>> rows_for_precision(0.5), rows_for_precision(0.9)
        (381, 141)
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    return bisect_left(range(1, 10**8), -within, key=lambda rows: -_wilson_half(accuracy, rows, z)) + 1


def _wilson_half(share: float, rows: int, z: float) -> float:
    return z / (1 + z**2 / rows) * math.sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2))


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(repr(label) for label in labels[:5]) + (f" and {len(labels) - 5} more" if len(labels) > 5 else "")


def _points(found: Interval) -> str:
    return f"{100 * found.value:+.1f} points of accuracy [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
