from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from graftwork.adaptation.inference import probabilities
from graftwork.training.history import History, Judged
from graftwork.training.transfer import Baseline, below_probe, majority_accuracy, negative_transfer

LABELS = np.random.default_rng(0).integers(0, 3, 120)


def logits(right: float) -> NDArray[np.float64]:
    """Logits whose most probable label is right for this share of the rows."""
    found = np.random.default_rng(1).normal(0, 0.3, (len(LABELS), 3))
    target = np.where(np.arange(len(LABELS)) < right * len(LABELS), LABELS, (LABELS + 1) % 3)
    found[np.arange(len(LABELS)), target] += 2.0
    return found


def history(*below: bool) -> History:
    start = Judged(0, 0, 0.4, 0.9)
    return History([start, *(Judged(8 * (i + 1), i + 1, 0.5 + i, 0.6, fell) for i, fell in enumerate(below))])


@pytest.mark.parametrize("weighted", [False, True])
def test_only_what_chance_does_not_explain_is_a_fall(weighted: bool) -> None:
    baseline = Baseline(logits(0.9), LABELS, weighted=weighted)
    assert baseline.above(logits(0.5))
    assert not baseline.above(logits(0.89))
    assert not baseline.above(logits(0.97))
    assert not baseline.above(logits(0.9) * 8)  # more confident is not worse
    assert baseline.above(np.full((len(LABELS), 3), np.nan))


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_few_rows_prove_nothing_and_break_nothing(rows: int) -> None:
    labels = np.arange(rows) % 2
    start = np.eye(2)[labels] * 4.0
    baseline = Baseline(start, labels, weighted=False)
    assert not baseline.above(start)
    assert not Baseline(start, labels, weighted=True).above(start * 2)
    baseline.above(-start)


@pytest.mark.parametrize(
    ("below", "ended", "told"),
    [
        ((), False, False),
        ((True,), False, False),
        ((True,), True, True),
        ((True, False), True, False),
        ((True, True), False, True),
        ((True, False, True), False, False),
    ],
)
def test_a_fall_is_told_when_it_lasts_or_is_the_last_word(below: tuple[bool, ...], ended: bool, told: bool) -> None:
    found = negative_transfer(history(*below), rows=120, ended=ended)
    assert (found is not None) == told


def test_the_warning_says_where_how_much_and_what_is_kept() -> None:
    found = negative_transfer(history(True, True), rows=120, ended=False)
    assert found is not None
    assert found.message == (
        "training did worse than the probe it started from, beyond chance, on 120 validation rows: at step 8, 16 the "
        "loss was 1.500 against 0.400 and the accuracy 60.0% against 90.0%; kept is the best that was seen, the start "
        "itself"
    )


def test_the_best_is_the_first_of_least_loss_and_patience_counts_from_there() -> None:
    seen = History([Judged(step, step, loss, 0.5) for step, loss in enumerate([0.5, 0.4, 0.4, float("nan")])])
    assert seen.best.step == 1
    assert seen.stalled(2)
    assert not seen.stalled(3)
    again = History.from_json(seen.to_json())
    assert again.judged[:3] == seen.judged[:3]
    assert again.best == seen.best


def test_the_majority_is_that_of_the_training_rows() -> None:
    assert majority_accuracy(np.array([0, 1, 1, 2]), np.array([0, 0, 2])) == 0.25


def test_worse_than_the_probe_on_test_rows_is_said_with_its_interval() -> None:
    def shares(right: float) -> NDArray[np.float64]:
        return probabilities(logits(right), 1.0)

    good, poor = shares(0.95), shares(0.6)
    found = below_probe(poor, good, LABELS, title="LoRA")
    assert found is not None
    assert found.code == "below-probe"
    assert found.message.startswith(
        "LoRA is worse than the plain probe on 120 test rows: its accuracy differs by -0.35"
    )
    assert below_probe(good, poor, LABELS, title="LoRA") is None
    assert below_probe(good, good, LABELS, title="LoRA") is None
