"""`evaluate`: its numbers against scikit-learn, its edges, and its way through JSON."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from graftwork.evaluation import Evaluation, Interval, evaluate
from tests.evaluation.samples import DIGEST, certain, sample


def names(classes: int) -> list[str]:
    return [f"class {index}" for index in range(classes)]


@pytest.mark.parametrize(("rows", "classes"), [(7, 2), (90, 4), (400, 12)])
def test_every_number_is_scikit_learns(rows, classes):
    probabilities, truth = sample(rows, classes, seed=rows)
    predicted = probabilities.argmax(axis=1)
    found = evaluate(probabilities, truth, names(classes), majority=0, dataset_digest=DIGEST, resamples=20)
    every = list(range(classes))
    precision, recall, f1, support = sk.precision_recall_fscore_support(truth, predicted, labels=every, zero_division=0)
    assert found.rows == rows
    assert found.accuracy.value == pytest.approx(sk.accuracy_score(truth, predicted), abs=1e-6)
    assert found.macro_f1.value == pytest.approx(sk.f1_score(truth, predicted, average="macro"), abs=1e-6)
    assert found.log_loss.value == pytest.approx(sk.log_loss(truth, probabilities, labels=every), abs=1e-6)
    assert found.confusion == tuple(map(tuple, sk.confusion_matrix(truth, predicted, labels=every).tolist()))
    assert [entry.label for entry in found.per_class] == names(classes)
    assert [entry.support for entry in found.per_class] == support.tolist()
    assert [entry.predicted for entry in found.per_class] == np.bincount(predicted, minlength=classes).tolist()
    assert [entry.precision.value for entry in found.per_class] == pytest.approx(precision, abs=1e-6)
    assert [entry.recall.value for entry in found.per_class] == pytest.approx(recall, abs=1e-6)
    assert [entry.f1.value for entry in found.per_class] == pytest.approx(f1, abs=1e-6)


def test_calibration_error_by_hand():
    # Bins of 1/15: .55 lies in (8/15, 9/15], .62 in (9/15, 10/15], .95 and .96 in (14/15, 1].
    probabilities = np.array([[0.55, 0.45], [0.62, 0.38], [0.95, 0.05], [0.96, 0.04]])
    found = evaluate(probabilities, np.array([0, 1, 0, 1]), names(2), majority=0, dataset_digest=DIGEST)
    expected = (abs(1 - 0.55) + abs(0 - 0.62) + abs((1 - 0.95) + (0 - 0.96))) / 4
    assert found.calibration_error.value == pytest.approx(expected, abs=1e-6)


def test_a_confidence_on_the_edge_belongs_to_the_bin_below():
    # .2 is the upper edge of bin 2 although 0.2 * 15 is a little more than 3 in floating point.
    probabilities = np.array([[0.2, 0.16, 0.16, 0.16, 0.16, 0.16], [0.19, 0.162, 0.162, 0.162, 0.162, 0.162]])
    found = evaluate(probabilities, np.array([0, 1]), names(6), majority=0, dataset_digest=DIGEST)
    assert found.calibration_error.value == pytest.approx(abs((1 - 0.2) + (0 - 0.19)) / 2, abs=1e-6)


def test_the_majority_and_the_probe_stand_beside_it():
    probabilities, truth = sample(200, 3, seed=1)
    poorer, _ = sample(200, 3, seed=2)
    prior = np.array([0.5, 0.3, 0.2])
    found = evaluate(
        probabilities, truth, names(3), majority=0, prior=prior, probe_probabilities=poorer, dataset_digest=DIGEST
    )
    always = np.zeros(200, dtype=np.int64)
    assert found.majority_label == "class 0"
    assert found.majority.accuracy.value == pytest.approx(np.mean(truth == 0), abs=1e-6)
    assert found.majority.macro_f1.value == pytest.approx(sk.f1_score(truth, always, average="macro"), abs=1e-6)
    assert found.majority.log_loss is not None
    assert found.majority.log_loss.value == pytest.approx(sk.log_loss(truth, np.tile(prior, (200, 1))), abs=1e-6)
    assert found.probe is not None
    alone = evaluate(poorer, truth, names(3), majority=0, dataset_digest=DIGEST)
    assert found.probe.accuracy == alone.accuracy
    assert found.probe.macro_f1 == alone.macro_f1
    assert found.probe.log_loss == alone.log_loss


def test_a_majority_without_shares_has_no_log_loss():
    probabilities, truth = sample(20, 2)
    found = evaluate(probabilities, truth, names(2), majority=1, dataset_digest=DIGEST)
    assert found.majority.log_loss is None
    assert found.probe is None


def test_perfect_predictions_are_not_certain():
    truth = np.repeat(np.arange(5), 20)
    found = evaluate(certain(truth.tolist(), 5), truth, names(5), majority=0, dataset_digest=DIGEST)
    # Wilson: 100 of 100 right leaves room down to 96.3 %; 20 of 20 down to 83.9 %.
    assert found.accuracy == Interval(value=1.0, low=0.963007, high=1.0)
    assert found.macro_f1.value == 1.0
    assert 0.95 < found.macro_f1.low < 0.97
    assert found.per_class[0].recall == Interval(value=1.0, low=0.838875, high=1.0)
    assert found.log_loss == Interval(value=0.0, low=0.0, high=0.0)
    assert found.calibration_error.value == 0.0


def test_a_probability_of_zero_costs_much_and_not_infinitely_much():
    found = evaluate(certain([0, 0], 2), np.array([0, 1]), names(2), majority=0, dataset_digest=DIGEST)
    assert found.log_loss.value == pytest.approx(36.043653 / 2, abs=1e-6)


def test_one_row():
    found = evaluate(np.array([[0.7, 0.3]]), np.array([0]), names(2), majority=1, dataset_digest=DIGEST)
    assert found.accuracy == Interval(value=1.0, low=0.206549, high=1.0)
    assert found.macro_f1.value == 1.0
    assert found.macro_f1.low < 0.4
    assert found.log_loss.value == pytest.approx(-np.log(0.7), abs=1e-6)
    assert found.calibration_error.value == pytest.approx(0.3, abs=1e-6)
    assert found.confusion == ((1, 0), (0, 0))


def test_a_class_without_rows_is_unknown_and_leaves_macro_f1_alone():
    truth = np.array([0, 0, 1, 1, 1])
    found = evaluate(certain([0, 1, 1, 1, 0], 3), truth, names(3), majority=1, dataset_digest=DIGEST)
    absent = found.per_class[2]
    nothing = Interval(value=0.0, low=0.0, high=1.0)
    assert (absent.support, absent.predicted) == (0, 0)
    assert (absent.precision, absent.recall, absent.f1) == (nothing, nothing, nothing)
    assert found.macro_f1.value == pytest.approx((0.5 + 2 / 3) / 2, abs=1e-6)


def test_a_class_predicted_without_rows_counts_as_zero():
    found = evaluate(certain([0, 2], 3), np.array([0, 0]), names(3), majority=0, dataset_digest=DIGEST)
    assert found.per_class[2].precision.value == 0.0
    assert found.per_class[2].recall == Interval(value=0.0, low=0.0, high=1.0)
    assert found.macro_f1.value == pytest.approx((2 / 3 + 0) / 2, abs=1e-6)


def test_equal_probabilities_take_the_first_class():
    found = evaluate(np.full((3, 2), 0.5), np.array([0, 1, 0]), names(2), majority=0, dataset_digest=DIGEST)
    assert found.confusion == ((2, 0), (1, 0))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_limits():
    probabilities, truth = sample(120, 3)

    def run(seed):
        return evaluate(probabilities, truth, names(3), majority=0, dataset_digest=DIGEST, seed=seed).model_dump_json()

    assert run(4) == run(4)
    assert run(4) != run(5)


def test_numbers_hold_six_decimals():
    probabilities, truth = sample(120, 3)
    found = evaluate(probabilities, truth, names(3), majority=0, dataset_digest=DIGEST)
    for interval in (found.accuracy, found.macro_f1, found.log_loss, found.calibration_error):
        for number in (interval.value, interval.low, interval.high):
            assert number == round(number, 6)


@given(
    st.integers(2, 5).flatmap(
        lambda classes: st.lists(
            st.tuples(st.lists(st.floats(0, 1), min_size=classes, max_size=classes), st.integers(0, classes - 1)),
            min_size=1,
            max_size=30,
        )
    )
)
@settings(max_examples=60)
def test_any_answers_give_finite_limits_around_the_value_and_survive_json(rows):
    weights = np.array([weights for weights, _ in rows]) + 1e-300
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    truth = np.array([truth for _, truth in rows])
    classes = probabilities.shape[1]
    found = evaluate(
        probabilities, truth, names(classes), majority=0, prior=np.full(classes, 1 / classes),
        probe_probabilities=probabilities, dataset_digest=DIGEST, resamples=50,
    )  # fmt: skip
    assert found.probe is not None
    shares = [found.accuracy, found.macro_f1, found.calibration_error, found.majority.accuracy, found.probe.macro_f1]
    for entry in found.per_class:
        shares += [entry.precision, entry.recall, entry.f1]
    for interval in shares:
        assert 0 <= interval.low <= interval.value <= interval.high <= 1
    assert 0 <= found.log_loss.low <= found.log_loss.value <= found.log_loss.high < 37
    assert sum(map(sum, found.confusion)) == len(rows)
    assert Evaluation.model_validate_json(found.model_dump_json()) == found
    assert Evaluation.model_validate(json.loads(json.dumps(found.model_dump(mode="json"), sort_keys=True))) == found


@pytest.mark.parametrize(
    ("probabilities", "truth", "words"),
    [
        (np.zeros((0, 2)), np.zeros(0, dtype=np.int64), "0 rows"),
        (np.full((3, 2), 0.5), np.array([0, 1]), "where 2 rows x 2 classes"),
        (np.full((2, 3), 1 / 3), np.array([0, 1]), "where 2 rows x 2 classes"),
        (np.array([[0.5, np.nan]]), np.array([0]), "not finite"),
        (np.array([[1.5, -0.5]]), np.array([0]), "outside 0..1"),
        (np.array([[0.5, 0.2]]), np.array([0]), "sum to one"),
        (np.array([[0.5, 0.5]]), np.array([2]), "from 0 to 1"),
        (np.array([[0.5, 0.5]]), np.array([-1]), "from 0 to 1"),
    ],
)
def test_what_is_no_answer_is_refused(probabilities, truth, words):
    with pytest.raises(ValueError, match=words):
        evaluate(probabilities, truth, names(2), majority=0, dataset_digest=DIGEST)


def test_a_majority_that_is_no_class_is_refused():
    with pytest.raises(ValueError, match="majority class 2"):
        evaluate(np.full((1, 2), 0.5), np.array([0]), names(2), majority=2, dataset_digest=DIGEST)


def test_a_thousand_resamples_of_a_thousand_rows_take_less_than_half_a_second():
    probabilities, truth = sample(1000, 20)
    started = time.process_time()
    evaluate(probabilities, truth, names(20), majority=0, dataset_digest=DIGEST)
    assert time.process_time() - started < 0.5
