"""What reports are made of: calibration by bins, doubtful labels, near rows, slices, verdicts."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.evaluation.evaluate import evaluate
from graftwork.evaluation.intervals import wilson_limits
from graftwork.evaluation.label_errors import confident_thresholds, doubtful_labels
from graftwork.evaluation.neighbours import nearest_rows
from graftwork.evaluation.reliability import reliability_bins
from graftwork.evaluation.slices import length_slices, unknown_slices
from graftwork.evaluation.verdict import (
    MAJORITY,
    PROBE,
    Verdict,
    always,
    paired_claims,
    rows_for_precision,
    separate_claims,
    verdict_of,
)

LABELS = ("ham", "spam", "news")


def drawn(rows: int, seed: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that lean to the truth, and the truth."""
    source = np.random.default_rng(seed)
    truth = source.integers(0, classes, rows)
    raw = source.gamma(0.7, size=(rows, classes)) + 0.02
    raw[np.arange(rows), truth] += source.gamma(1.0, size=rows)
    return raw / raw.sum(axis=1, keepdims=True), truth


@given(st.integers(1, 200), st.integers(0, 10_000))
def test_the_bins_hold_every_row_and_add_up_to_the_calibration_error(rows: int, seed: int) -> None:
    told, truth = drawn(rows, seed)
    bins = reliability_bins(told, truth)
    assert sum(one.rows for one in bins) == rows
    error = sum(one.rows * abs(one.accuracy.value - one.confidence) for one in bins) / rows
    measured = evaluate(told, truth, LABELS, majority=0, dataset_digest="", resamples=2).calibration_error.value
    assert error == pytest.approx(measured, abs=1e-5)
    assert all(one.low < one.confidence <= one.high + 1e-6 for one in bins)


@given(st.integers(1, 80), st.integers(0, 10_000))
def test_doubtful_labels_are_the_confident_joint_off_the_diagonal(rows: int, seed: int) -> None:
    told, truth = drawn(rows, seed)
    labels = np.where(np.random.default_rng(seed + 1).random(rows) < 0.2, (truth + 1) % 3, truth)
    limits = [told[labels == k, k].mean() if (labels == k).any() else np.inf for k in range(3)]
    assert confident_thresholds(told, labels) == pytest.approx(limits)
    expected = {}
    for row in range(rows):
        confident = [k for k in range(3) if told[row, k] >= limits[k]]
        if confident and (best := max(confident, key=lambda k: told[row, k])) != labels[row]:
            expected[row] = LABELS[best]
    found = doubtful_labels(told, labels, LABELS)
    assert {one.row: one.suggested for one in found} == expected
    order = [one.given_probability for one in found]
    assert order == sorted(order)


def test_labels_that_were_changed_are_found() -> None:
    truth = np.repeat([0, 1], 100)
    told = np.where(np.arange(2) == truth[:, None], 0.95, 0.05)
    labels = truth.copy()
    labels[[3, 50, 120]] = 1 - labels[[3, 50, 120]]
    assert {one.row for one in doubtful_labels(told, labels, ("a", "b"))} == {3, 50, 120}


def test_the_nearest_rows_are_those_of_a_search_one_by_one() -> None:
    source = np.random.default_rng(0)
    asked, known = source.normal(size=(7, 5)), source.normal(size=(9, 5))
    places, likeness = nearest_rows(asked, known, count=3)
    for row, vector in enumerate(asked):
        cosine = [vector @ other / np.linalg.norm(vector) / np.linalg.norm(other) for other in known]
        best = sorted(range(9), key=lambda place: -cosine[place])[:3]
        assert places[row].tolist() == best
        assert likeness[row] == pytest.approx([cosine[place] for place in best])
    assert nearest_rows(asked, known[:2], count=3)[0].shape == (7, 2)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60))
def test_slices_by_length_hold_neighbours(lengths: list[int]) -> None:
    names = length_slices(lengths, unit="tokens")
    assert 1 <= len(set(names)) <= 3
    ordered = [name for _, name in sorted(zip(lengths, names, strict=True), key=lambda pair: pair[0])]
    assert sum(a != b for a, b in pairwise(ordered)) == len(set(names)) - 1


def test_slices_by_unknown_tokens() -> None:
    assert unknown_slices([0, 1, 1, 0], [0, 20, 19, 5]) == [
        "none unknown", "up to 5 % unknown", "over 5 % unknown", "none unknown",
    ]  # fmt: skip


def verdict(own: np.ndarray, probe: np.ndarray | None, truth: np.ndarray, majority: int = 0) -> Verdict:
    cheaper = {MAJORITY: always(majority, len(truth), 2)} | ({} if probe is None else {PROBE: probe})
    found = evaluate(own, truth, ("no", "yes"), majority=majority, probe_probabilities=probe, dataset_digest="")
    return verdict_of(found, paired_claims(own, cheaper, truth))


def answers(truth: np.ndarray, wrong: int, start: int = 0) -> np.ndarray:
    """Answers of which some rows are wrong."""
    said = truth.copy()
    said[start : start + wrong] = 1 - said[start : start + wrong]
    return np.where(np.arange(2) == said[:, None], 0.9, 0.1)


TRUTH = np.tile([0, 1], 100)


def test_a_verdict_says_what_was_shown_and_no_more() -> None:
    better = verdict(answers(TRUTH, 10), answers(TRUTH, 60), TRUTH)
    assert better.standing == "better"
    assert better.headline.startswith("It works, and better than everything it was compared with: 95.0 % [")
    assert [claim.outcome for claim in better.claims] == ["helped", "helped"]
    equal = verdict(answers(TRUTH, 20), answers(TRUTH, 26), TRUTH)
    assert equal.standing == "better"  # six rows, all one way
    equal = verdict(answers(TRUTH, 20), answers(TRUTH, 24, start=12), TRUTH)
    assert equal.standing == "as good as cheaper"
    assert equal.claims[1].rows_needed is not None
    assert equal.claims[1].rows_needed > 200
    assert f"about {equal.claims[1].rows_needed:,} rows would show it" in equal.claims[1].sentence
    assert verdict(answers(TRUTH, 60), answers(TRUTH, 10), TRUTH).standing == "worse"
    hurt = verdict(answers(TRUTH, 190), None, TRUTH)
    assert hurt.headline.startswith("Do not use it: always saying 'no' is right more often")


def test_too_few_rows_cannot_tell_and_say_how_many_would() -> None:
    found = verdict(answers(TRUTH[:8], 2), None, TRUTH[:8])
    assert found.standing == "cannot tell"
    wanted = rows_for_precision(0.75)
    assert f"about {wanted:,} would tell it to within 5" in found.remarks[0]
    silent = verdict(answers(np.zeros(8, dtype=int), 1), None, np.zeros(8, dtype=int))
    assert "Nothing can be said of 'yes'" in silent.remarks[-1]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.93, 1.0])
def test_so_many_rows_and_no_fewer_make_the_interval_that_narrow(share: float) -> None:
    def half(rows: int) -> float:
        low, high = wilson_limits(np.array([share * rows]), np.array([rows]), 0.95)
        return float(high[0] - low[0]) / 2

    rows = rows_for_precision(share)
    assert half(rows) <= 0.05 < half(rows - 1)


def test_without_rows_intervals_that_meet_show_nothing() -> None:
    found = evaluate(
        answers(TRUTH, 20), TRUTH, ("no", "yes"), majority=0, probe_probabilities=answers(TRUTH, 24), dataset_digest=""
    )
    majority, probe = separate_claims(found)
    assert (majority.outcome, probe.outcome) == ("helped", "no difference shown")
    assert "by intervals that were taken apart" in probe.sentence
    assert verdict_of(found, (majority, probe)).standing == "as good as cheaper"
