from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from graftwork.training.folds import stratified_folds
from graftwork.training.probe import cross_entropy, fit_head, fit_probe

Rows = tuple[NDArray[np.float64], NDArray[np.int64]]


@pytest.fixture(params=[2, 4])
def rows(request: pytest.FixtureRequest) -> Rows:
    random = np.random.default_rng(0)
    classes = int(request.param)
    labels = random.integers(0, classes, 240)
    centres = random.normal(size=(classes, 12))
    return centres[labels] * 0.7 + random.normal(size=(240, 12)) + 5.0, labels


def sklearn_twin(features: NDArray[np.float64], labels: NDArray[np.int64], penalty: float) -> LogisticRegression:
    """Its objective is the sum of losses plus squared norm / 2C, ours the mean plus penalty / 2 times it."""
    return LogisticRegression(C=1 / (penalty * len(labels)), tol=1e-10, max_iter=5000).fit(features, labels)


@pytest.mark.parametrize("penalty", [1.0, 0.03, 0.001])
def test_the_solution_is_scikit_learns(rows: Rows, penalty: float) -> None:
    features, labels = rows
    classes = int(labels.max()) + 1
    weight, bias = fit_head(features, labels, classes=classes, penalty=penalty)
    centre = features.mean(axis=0)
    scale = float(np.sqrt(((features - centre) ** 2).mean()))
    # scikit-learn's binary model has one weight vector; two opposite halves of it cost half as much.
    twin = sklearn_twin((features - centre) / scale, labels, penalty / 2 if classes == 2 else penalty)
    ours = features @ weight.T + bias
    theirs = twin.decision_function((features - centre) / scale)
    if classes == 2:
        ours = ours[:, 1] - ours[:, 0]
    else:
        ours, theirs = (logits - logits.mean(axis=1, keepdims=True) for logits in (ours, theirs))
    np.testing.assert_allclose(ours, theirs, atol=2e-2 * np.abs(theirs).max())
    np.testing.assert_array_equal(np.sign(np.round(ours, 1)), np.sign(np.round(theirs, 1)))


def test_held_out_logits_come_from_folds_that_did_not_see_the_row(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graftwork.training.probe._ROUGH", 1e-9)
    features, labels = rows
    classes = int(labels.max()) + 1
    groups = np.arange(len(labels)) // 2
    probe = fit_probe(features, labels, groups, classes=classes, penalties=[0.1], folds=4, seed=5)
    fold = stratified_folds(labels, groups, folds=4, seed=5)
    for index in range(4):
        train, test = fold != index, fold == index
        weight, bias = fit_head(features[train], labels[train], classes=classes, penalty=0.1)
        np.testing.assert_allclose(probe.held_out_logits[test], features[test] @ weight.T + bias, atol=1e-6)
    weight, bias = fit_head(features, labels, classes=classes, penalty=0.1)
    np.testing.assert_allclose(probe.logits(features), features @ weight.T + bias, atol=1e-6)
    assert probe.held_out_loss == pytest.approx(cross_entropy(probe.held_out_logits, labels))


def test_the_penalty_is_the_best_of_those_tried_one_by_one(rows: Rows) -> None:
    features, labels = rows
    classes = int(labels.max()) + 1
    penalties = [3.0, 0.3, 0.03, 0.003]
    alone = {
        penalty: fit_probe(
            features, labels, np.arange(len(labels)), classes=classes, penalties=[penalty], folds=5, seed=0
        ).held_out_loss
        for penalty in penalties
    }
    probe = fit_probe(features, labels, np.arange(len(labels)), classes=classes, penalties=penalties, folds=5, seed=0)
    assert probe.penalty == min(alone, key=lambda penalty: alone[penalty])
    assert probe.held_out_loss == pytest.approx(min(alone.values()), abs=1e-3)


def test_a_class_with_two_rows_still_has_two_folds() -> None:
    random = np.random.default_rng(1)
    features = random.normal(size=(22, 5))
    labels = np.array([0] * 20 + [1] * 2)
    probe = fit_probe(features, labels, np.arange(22), classes=2, penalties=[1.0, 0.1], folds=5, seed=0)
    assert np.isfinite(probe.held_out_logits).all()
    assert probe.temperature(labels) > 0


def test_features_that_are_all_the_same_give_the_prior() -> None:
    labels = np.array([0] * 30 + [1] * 10)
    weight, bias = fit_head(np.ones((40, 3)), labels, classes=2, penalty=0.1)
    logits = np.ones((1, 3)) @ weight.T + bias
    shares = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(shares[0], [0.75, 0.25], atol=1e-3)


def test_cross_entropy_by_hand() -> None:
    logits = np.array([[0.0, 0.0], [np.log(3.0), 0.0]])
    assert cross_entropy(logits, np.array([0, 1])) == pytest.approx((np.log(2) + np.log(4)) / 2)
    assert cross_entropy(np.array([[1e4, 0.0]]), np.array([0])) == 0.0
