"""What transfer was worth: ratios, verdicts, gaps, learning curves and the rows they need."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from graftwork.evaluation import paired_difference
from graftwork.evaluation.intervals import Floats, Ints
from graftwork.evaluation.results import Interval
from graftwork.evaluation.transfer import (
    ReferenceRun,
    RowsNeeded,
    accuracy_of,
    compare_with_references,
    crossing,
    generalisation_gap,
    learning_curves,
)

TRUTH: Ints = np.zeros(200, dtype=np.int64)


def right(share: float, *, rows: int = 200, shift: int = 0) -> Floats:
    """Probabilities that are right on so many rows, beginning at a row."""
    answers = np.tile([0.1, 0.9], (rows, 1))
    answers[(np.arange(round(share * rows)) + shift) % rows] = [0.9, 0.1]
    return answers


def test_a_reference_far_below_says_helped_and_one_far_above_hurt() -> None:
    own = ReferenceRun(right(0.8), 10.0)
    references = {
        "scratch": ReferenceRun(right(0.5), 300.0),
        "probe": ReferenceRun(right(0.79), 2.0),
        "oracle": ReferenceRun(right(0.97), 50.0),
    }
    scratch, probe, oracle = compare_with_references(own, references, TRUTH)
    assert [one.verdict for one in (scratch, probe, oracle)] == ["helped", "no difference shown", "hurt"]
    assert (scratch.accuracy.value, scratch.ratio.value, scratch.times_faster) == (0.5, 1.6, 30.0)
    assert 1.3 < scratch.ratio.low < 1.6 < scratch.ratio.high < 2.0
    assert scratch.difference == paired_difference("accuracy", own.probabilities, right(0.5), TRUTH)
    assert oracle.p_value == pytest.approx(2 * 0.5**34 * 2, abs=1e-6)  # 34 disputed rows, the second of three by Holm
    assert probe.p_value == pytest.approx(0.5)  # two disputed rows


def test_without_seconds_nothing_is_said_of_speed() -> None:
    (found,) = compare_with_references(
        ReferenceRun(right(0.8), 0.0), {"scratch": ReferenceRun(right(0.5), 3.0)}, TRUTH, seconds_known=False
    )
    assert found.times_faster is None
    assert found.seconds == 3.0


def test_many_references_need_more_evidence_than_one() -> None:
    own, close = ReferenceRun(right(0.8), 1.0), right(0.765)  # seven disputed rows, all one way: p = 0.016
    (alone,) = compare_with_references(own, {"scratch": ReferenceRun(close, 1.0)}, TRUTH)
    beside = compare_with_references(own, {str(i): ReferenceRun(close, 1.0) for i in range(4)}, TRUTH)
    assert alone.verdict == "helped"
    assert {one.verdict for one in beside} == {"no difference shown"}


def test_the_ratio_covers_the_true_one_at_its_rate() -> None:
    draw = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        both = draw.random(200)
        own, other = both < 0.8, (both < 0.55) | (draw.random(200) < 0.1)
        truth_ratio = 0.8 / (0.55 + 0.45 * 0.1)
        made = [np.where(flags[:, None], [0.9, 0.1], [0.1, 0.9]) for flags in (own, other)]
        (found,) = compare_with_references(
            ReferenceRun(made[0], 1.0), {"scratch": ReferenceRun(made[1], 1.0)}, TRUTH, seed=seed
        )
        hits += found.ratio.low <= truth_ratio <= found.ratio.high
    assert 182 <= hits <= 198  # 95 % of 200, within three standard errors


def test_the_gap_is_newcombes() -> None:
    # Newcombe 1998, table II, method 10: 56 of 70 against 48 of 80 gives 0.0524 to 0.3339.
    trained = accuracy_of(right(0.8, rows=70), TRUTH[:70])
    tested = accuracy_of(right(0.6, rows=80), TRUTH[:80])
    gap = generalisation_gap(trained, tested)
    assert gap.value == pytest.approx(0.2, abs=1e-9)
    assert (round(gap.low, 4), round(gap.high, 4)) == (0.0524, 0.3339)


def test_curves_tell_how_many_rows_make_two_ways_equal() -> None:
    answers = {
        "transfer": {100: [right(0.6), right(0.62)], 400: [right(0.8), right(0.82)], 800: [right(0.9)]},
        "scratch": {100: [right(0.4)], 400: [right(0.5)], 800: [right(0.71)]},
    }
    transfer, scratch = learning_curves(answers, TRUTH)
    assert [(point.rows, point.draws, point.accuracy.value) for point in transfer.points] == [
        (100, 2, 0.61),
        (400, 2, 0.81),
        (800, 1, 0.9),
    ]
    assert transfer.of == "scratch"
    assert transfer.needed is not None
    assert transfer.needed.rows == 200  # half way from 61 to 81 %, on a logarithmic scale
    assert transfer.needed.low is not None
    assert transfer.needed.low <= 200 <= (transfer.needed.high or math.inf)
    assert scratch.needed == RowsNeeded(rows=None, low=None, high=None)


def test_one_curve_has_no_other_to_reach() -> None:
    (curve,) = learning_curves({"transfer": {10: [right(0.5)]}}, TRUTH)
    assert (curve.needed, curve.of) == (None, None)


@given(
    values=st.lists(st.floats(0, 1), min_size=2, max_size=6),
    target=st.floats(0, 1),
)
def test_a_crossing_lies_where_the_levelled_curve_says(values: list[float], target: float) -> None:
    counts = [100 * 2**place for place in range(len(values))]
    found = crossing(counts, np.array(values), target)
    levelled = _levelled(values)
    if math.isinf(found):
        assert max(levelled) < target
        return
    assert counts[0] <= found <= counts[-1]
    reached = np.interp(np.log2(found), np.log2(counts), levelled)
    assert reached == pytest.approx(target, abs=1e-6) or (found == counts[0] and levelled[0] >= target)


def _levelled(values: list[float]) -> list[float]:
    """Pool adjacent violators, the plain way."""
    blocks: list[list[float]] = []
    for value in values:
        blocks.append([value])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    return [float(np.mean(block)) for block in blocks for _ in block]


def test_accuracy_has_wilsons_interval() -> None:
    limits = binomtest(160, 200).proportion_ci(method="wilson")
    assert accuracy_of(right(0.8), TRUTH) == Interval.of(0.8, limits.low, limits.high)
