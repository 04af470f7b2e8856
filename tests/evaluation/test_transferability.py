"""Scores of features without training, beside what they are defined as."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf

from graftwork.evaluation.intervals import Floats, Ints
from graftwork.evaluation.transferability import h_score, log_me, nearest_neighbour_accuracy


def task(rows: int, width: int, classes: int, *, signal: float, seed: int) -> tuple[Floats, Ints]:
    draw = np.random.default_rng(seed)
    labels = draw.integers(classes, size=rows)
    return draw.normal(size=(rows, width)) + signal * np.eye(classes, width)[labels], labels


@pytest.mark.parametrize(("rows", "width"), [(60, 5), (25, 40)])
def test_log_me_is_the_highest_evidence_that_an_optimiser_finds(rows: int, width: int) -> None:
    features, labels = task(rows, width, 3, signal=1.5, seed=1)
    highest = []
    for place in range(3):
        target = (labels == place).astype(float)

        def lost(logs: Floats, target: Floats = target) -> float:
            prior, noise = np.exp(logs)
            covariance = features @ features.T / prior + np.eye(rows) / noise
            return -float(multivariate_normal.logpdf(target, cov=covariance))

        found = minimize(lost, [2.0, 2.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10})
        highest.append(-found.fun / rows)
    assert log_me(features, labels, classes=3) == pytest.approx(np.mean(highest), abs=1e-6)


def test_h_score_is_the_trace_it_is_defined_as() -> None:
    features, labels = task(50, 8, 4, signal=1.0, seed=2)
    centred = features - features.mean(axis=0)
    covariance, shrinkage = ledoit_wolf(centred)
    means = np.stack([centred[labels == label].mean(axis=0) for label in labels])
    between = means.T @ means / 50
    expected = np.trace(np.linalg.inv(covariance) @ between) * (1 - shrinkage)
    assert h_score(features, labels, classes=4) == pytest.approx(expected, rel=1e-9)


def test_neighbours_vote_as_scikit_learn_lets_them() -> None:
    from sklearn.model_selection import LeaveOneOut, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier

    features, labels = task(80, 6, 2, signal=1.0, seed=3)
    votes = cross_val_predict(KNeighborsClassifier(5, metric="cosine"), features, labels, cv=LeaveOneOut())
    assert nearest_neighbour_accuracy(features, labels, classes=2) == pytest.approx((votes == labels).mean())


def test_of_equal_votes_the_nearest_decides() -> None:
    features = np.array([[1.0, 0.0], [1.0, 0.1], [1.0, 0.3]])
    assert nearest_neighbour_accuracy(features, np.array([1, 1, 0]), classes=2, neighbours=2) == pytest.approx(2 / 3)


@given(seed=st.integers(0, 10_000), rows=st.integers(2, 30), width=st.integers(1, 40), classes=st.integers(1, 4))
def test_scores_see_no_rotation_and_are_always_numbers(seed: int, rows: int, width: int, classes: int) -> None:
    features, labels = task(rows, width, classes, signal=1.0, seed=seed)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))
    for score in (log_me, h_score, nearest_neighbour_accuracy):
        value = score(features, labels, classes=classes)
        assert np.isfinite(value)
        if score is not nearest_neighbour_accuracy:
            assert score(features @ rotation, labels, classes=classes) == pytest.approx(value, rel=1e-4, abs=1e-4)
    assert -1e-9 <= h_score(features, labels, classes=classes) <= max(classes - 1, 0) + 1e-9


def test_features_that_tell_the_classes_apart_score_higher() -> None:
    noise, labels = task(200, 20, 4, signal=0.0, seed=4)
    telling = noise + 2 * np.eye(4, 20)[labels]
    for score in (log_me, h_score, nearest_neighbour_accuracy):
        assert score(telling, labels, classes=4) > score(noise, labels, classes=4)


@pytest.mark.parametrize(
    ("features", "labels", "said"),
    [
        (np.ones((2, 3)), np.array([0]), "beside labels"),
        (np.ones((0, 3)), np.array([], dtype=np.int64), "beside labels"),
        (np.array([[np.nan], [1.0]]), np.array([0, 1]), "not finite"),
        (np.ones((2, 3)), np.array([0, 2]), r"outside 0\.\.1"),
    ],
)
def test_what_cannot_be_scored_is_refused(features: Floats, labels: Ints, said: str) -> None:
    for score in (log_me, h_score, nearest_neighbour_accuracy):
        with pytest.raises(ValueError, match=said):
            score(features, labels, classes=2)
    with pytest.raises(ValueError, match="no neighbour"):
        nearest_neighbour_accuracy(np.ones((1, 1)), np.array([0]), classes=1)
