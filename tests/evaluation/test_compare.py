"""`paired_difference`: values, directions, the exact test, and silence where nothing can be told."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from graftwork.evaluation import PairedDifference, paired_difference
from graftwork.evaluation.compare import mcnemar
from tests.evaluation.samples import certain, sample


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (5, 5), (9, 2), (2, 9), (40, 18)])
def test_mcnemar_is_the_exact_binomial_test(only_a, only_b):
    expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert mcnemar(only_a, only_b) == pytest.approx(expected, abs=1e-12)


def test_the_difference_is_the_difference_of_the_metrics():
    a, truth = sample(150, 4, seed=0)
    b, _ = sample(150, 4, seed=9)
    by_a, by_b = a.argmax(axis=1), b.argmax(axis=1)
    expected = {
        "accuracy": sk.accuracy_score(truth, by_a) - sk.accuracy_score(truth, by_b),
        "macro_f1": sk.f1_score(truth, by_a, average="macro") - sk.f1_score(truth, by_b, average="macro"),
        "log_loss": sk.log_loss(truth, a) - sk.log_loss(truth, b),
    }
    for metric in ("accuracy", "macro_f1", "log_loss"):
        found = paired_difference(metric, a, b, truth)
        assert found.difference.value == pytest.approx(expected[metric], abs=1e-6)
        assert found.better == "a"
        assert paired_difference(metric, b, a, truth).better == "b"
        assert found.only_a == np.sum((by_a == truth) & (by_b != truth))
        assert found.only_b == np.sum((by_a != truth) & (by_b == truth))


def test_equal_classifiers_differ_by_nothing():
    a, truth = sample(50, 3)
    for metric in ("accuracy", "macro_f1", "log_loss"):
        found = paired_difference(metric, a, a, truth)
        assert (found.difference.value, found.difference.low, found.difference.high) == (0.0, 0.0, 0.0)
        assert (found.p_value, found.better) == (1.0, None)


def test_three_rows_that_all_went_one_way_prove_nothing():
    found = paired_difference("accuracy", certain([0, 0, 0], 2), certain([1, 1, 1], 2), np.array([0, 0, 0]))
    assert (found.difference.low, found.p_value) == (1.0, 0.25)
    assert found.better is None


def test_noise_is_called_noise():
    # Two classifiers of equal quality that err on different rows: a wrong verdict at most at about the level's rate.
    verdicts = []
    for trial in range(200):
        generator = np.random.default_rng(trial)
        truth = generator.integers(0, 3, 120)
        a, b = (np.where(generator.random(120) < 0.8, truth, (truth + 1) % 3).tolist() for _ in range(2))
        verdicts.append(paired_difference("accuracy", certain(a, 3), certain(b, 3), truth, resamples=200).better)
    assert sum(verdict is not None for verdict in verdicts) <= 14


def test_one_row():
    found = paired_difference("macro_f1", certain([0], 2), certain([1], 2), np.array([0]))
    assert found.difference.value == 1.0
    assert found.rows == 1


def test_json_round_trip():
    a, truth = sample(50, 3)
    b, _ = sample(50, 3, seed=5)
    found = paired_difference("accuracy", a, b, truth)
    assert PairedDifference.model_validate_json(found.model_dump_json()) == found
    assert found == paired_difference("accuracy", a, b, truth)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="where 2 rows x 2 classes"):
        paired_difference("accuracy", certain([0, 1], 2), certain([0, 1, 0], 2), np.array([0, 1]))
