"""The limits: against SciPy, against known values, and by simulation against the rate they state."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from graftwork.evaluation import evaluate, paired_difference
from graftwork.evaluation.intervals import basic_limits, bca_limits, draw_rows, percentile_limits, wilson_limits
from graftwork.evaluation.metrics import count, macro_f1_left_out
from tests.evaluation.samples import DIGEST, certain, sample


def test_wilson_is_scipys():
    successes, trials = np.array([0, 1, 7, 40, 50]), np.array([5, 1, 9, 41, 100])
    low, high = wilson_limits(successes, trials, 0.9)
    for index, (hits, rows) in enumerate(zip(successes, trials, strict=True)):
        expected = stats.binomtest(int(hits), int(rows)).proportion_ci(0.9, method="wilson")
        assert (low[index], high[index]) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_without_trials_knows_nothing():
    low, high = wilson_limits(np.array([0]), np.array([0]), 0.95)
    assert (low[0], high[0]) == (0.0, 1.0)


def test_bca_is_scipys():
    values = np.random.default_rng(3).exponential(size=60)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="BCa", confidence_level=0.9, rng=np.random.default_rng(0)
    )
    left_out = (values.sum() - values) / 59
    ours = bca_limits(values.mean(), theirs.bootstrap_distribution, left_out, 0.9)
    interval = theirs.confidence_interval
    assert ours == pytest.approx((interval.low, interval.high), abs=1e-3)


def test_basic_and_percentile_limits():
    resampled = np.arange(101) / 100
    assert basic_limits(0.4, resampled, 0.9) == pytest.approx((2 * 0.4 - 0.95, 2 * 0.4 - 0.05))
    table = np.stack([resampled, np.where(resampled > 0.5, np.nan, resampled), np.full(101, np.nan)], axis=1)
    low, high = percentile_limits(table, 0.9)
    assert (low[0], high[0]) == pytest.approx((0.05, 0.95))
    assert (low[1], high[1]) == pytest.approx((0.025, 0.475))
    assert np.isnan(low[2])
    assert np.isnan(high[2])


def test_draws_are_the_same_for_the_same_seed_and_split_into_chunks_of_bounded_size():
    chunks = list(draw_rows(300_000, 7, seed=1))
    assert [len(chunk) for chunk in chunks] == [3, 3, 1]
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(chunks, draw_rows(300_000, 7, seed=1), strict=True))
    assert chunks[0].min() >= 0
    assert chunks[0].max() < 300_000


def test_leaving_a_row_out_equals_counting_anew():
    generator = np.random.default_rng(0)
    truth, predicted = generator.integers(0, 4, 25), generator.integers(0, 5, 25)
    left_out = macro_f1_left_out(truth, predicted, count(truth[None], predicted[None], 6))
    rows = np.arange(25)
    expected = [count(truth[None, rows != row], predicted[None, rows != row], 6).macro_f1[0] for row in rows]
    assert left_out == pytest.approx(expected, abs=1e-12)


def _coverage(rows: int, classes: int, spread: float, trials: int) -> dict[str, float]:
    """How often each 95 % interval holds the value that a very large sample of the same kind shows."""
    large, large_truth = sample(200_000, classes, spread=spread, seed=10_000)
    names = [str(index) for index in range(classes)]
    actual = evaluate(large, large_truth, names, majority=0, dataset_digest=DIGEST, resamples=2)
    held = dict.fromkeys(("accuracy", "macro_f1", "log_loss"), 0)
    for trial in range(trials):
        probabilities, truth = sample(rows, classes, spread=spread, seed=trial)
        found = evaluate(probabilities, truth, names, majority=0, dataset_digest=DIGEST, resamples=300, seed=trial)
        for metric in held:
            interval = getattr(found, metric)
            held[metric] += interval.low <= getattr(actual, metric).value <= interval.high
    return {metric: hits / trials for metric, hits in held.items()}


def test_intervals_cover_at_about_the_rate_they_state():
    # 300 trials: the rate found for an exact 95 % interval has a standard deviation of 1.3 points.
    rates = _coverage(rows=120, classes=4, spread=2.0, trials=300)
    assert 0.92 <= rates["accuracy"] <= 0.985
    assert 0.92 <= rates["macro_f1"] <= 0.985
    assert 0.91 <= rates["log_loss"] <= 0.985


def test_intervals_of_a_nearly_perfect_classifier_do_not_collapse():
    # Plain percentile intervals cover 85 to 87 % here: resampling cannot show an error that was never seen.
    generator = np.random.default_rng(0)
    held_accuracy = held_macro = 0
    for trial in range(200):
        truth = generator.integers(0, 2, 100)
        predicted = np.where(generator.random(100) < 0.98, truth, 1 - truth)
        found = evaluate(
            certain(predicted.tolist(), 2), truth, ["a", "b"], majority=0, dataset_digest=DIGEST,
            resamples=300, seed=trial,
        )  # fmt: skip
        held_accuracy += found.accuracy.low <= 0.98 <= found.accuracy.high
        held_macro += found.macro_f1.low <= 0.98 <= found.macro_f1.high
    assert held_accuracy / 200 >= 0.94
    assert held_macro / 200 >= 0.93


def test_calibration_limits_reach_zero_for_honest_probabilities_and_stay_away_for_boasting_ones():
    honest = boasting = 0
    for trial in range(100):
        for overconfidence in (1.0, 3.0):
            probabilities, truth = sample(150, 3, overconfidence=overconfidence, seed=trial)
            found = evaluate(
                probabilities, truth, ["a", "b", "c"], majority=0, dataset_digest=DIGEST, resamples=300, seed=trial
            )
            if overconfidence == 1.0:
                honest += found.calibration_error.low == 0.0
            else:
                boasting += found.calibration_error.low > 0.0
    assert honest >= 93
    assert boasting >= 97


def test_a_paired_interval_covers_too():
    held = 0
    for trial in range(200):
        generator = np.random.default_rng(trial)
        truth = generator.integers(0, 3, 150)
        a = np.where(generator.random(150) < 0.85, truth, (truth + 1) % 3)
        b = np.where(generator.random(150) < 0.75, truth, (truth + 1) % 3)
        found = paired_difference(
            "accuracy", certain(a.tolist(), 3), certain(b.tolist(), 3), truth, seed=trial, resamples=300
        )
        held += found.difference.low <= 0.10 <= found.difference.high
    assert 0.91 <= held / 200 <= 0.985
