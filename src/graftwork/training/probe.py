"""The linear probe: multinomial logistic regression on pooled features, its penalty chosen by cross-validation.

The loss is the mean cross-entropy a row plus `penalty / 2` times the squared norm of the weights (the bias is free),
on features that were centred and divided by one common scale, so that the same penalties suit every base model. It
is minimised by L-BFGS; centring and scale are folded into the weights afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from graftwork.evaluation.temperature import fit_temperature
from graftwork.training.folds import stratified_folds

Array = NDArray[np.float64]

_ROUGH = 1e-5  # relative tolerance while penalties are compared: their losses differ by far more
_GIVE_UP = 2  # penalties in a row without a better loss, after which weaker ones are not tried


class Linear(NamedTuple):
    """A linear head.

    Attributes:
        weight: float64 `[classes, width]`.
        bias: float64 `[classes]`.
    """

    weight: Array
    bias: Array

    def logits(self, features: NDArray[np.floating]) -> Array:
        """Logits `[rows, classes]` of pooled features `[rows, width]`."""
        return features.astype(np.float64) @ self.weight.T + self.bias


@dataclass(frozen=True)
class Probe:
    """A fitted probe.

    Attributes:
        weight: float64 `[classes, width]`.
        bias: float64 `[classes]`.
        penalty: the penalty that was chosen.
        held_out_logits: float64 `[rows, classes]`, each row's logits by the fold that did not see it.
        held_out_loss: mean cross-entropy of those.
        prior: the head it started from; None when it started from nought.
    """

    weight: Array
    bias: Array
    penalty: float
    held_out_logits: Array
    held_out_loss: float
    prior: Linear | None = None

    def logits(self, features: NDArray[np.floating]) -> Array:
        """Logits `[rows, classes]` of pooled features `[rows, width]`."""
        return Linear(self.weight, self.bias).logits(features)

    def temperature(self, labels: NDArray[np.int64]) -> float:
        """The temperature that calibrates it, fitted on its held-out logits against the class indices `[rows]`."""
        return fit_temperature(self.held_out_logits, labels)


def fit_probe(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    *,
    classes: int,
    penalties: Sequence[float],
    folds: int,
    seed: int,
    prior: Linear | None = None,
) -> Probe:
    """Fit the probe on all rows with the penalty of least cross-validated loss.

    Args:
        features: pooled features `[rows, width]`.
        labels: class indices `[rows]`.
        groups: group ids `[rows]`: near-duplicates share a fold.
        classes: number of classes.
        penalties: candidates.
        folds: folds of the cross-validation; fewer when the smallest class has fewer rows, at least 2.
        seed: decides the folds.
        prior: a head to start from: the penalty is on the difference from it, the bias among it, so that few rows
            change it little, and labels that none of them has stay what they were.

    Returns:
        The probe, with held-out logits for calibration and comparison.
    """
    smallest = int(np.bincount(labels, minlength=classes).min())
    used = max(2, min(folds, smallest))
    fold = stratified_folds(labels, groups, folds=used, seed=seed)
    present = np.unique(fold)
    solvers = [_Solver(features[fold != index], labels[fold != index], classes, prior) for index in present]
    everything = _Solver(features, labels, classes, prior)
    best: tuple[float, float, Array] | None = None
    worse = 0
    with _one_thread_a_product():
        for penalty in sorted(penalties, reverse=True):
            held_out = np.zeros((len(labels), classes))
            for index, solver in zip(present, solvers, strict=True):
                weight, bias = solver.solve(penalty, tolerance=_ROUGH)
                held_out[fold == index] = features[fold == index] @ weight.T + bias
            loss = cross_entropy(held_out, labels)
            if best is None or loss < best[0]:
                best, worse = (loss, penalty, held_out), 0
            else:
                worse += 1
            if worse == _GIVE_UP:
                break
        assert best is not None
        loss, penalty, held_out = best
        weight, bias = everything.solve(penalty)
    return Probe(weight, bias, penalty, held_out, loss, prior)


def fit_head(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    *,
    classes: int,
    penalty: float,
    prior: Linear | None = None,
) -> tuple[Array, Array]:
    """Weights `[classes, width]` and bias `[classes]` at a penalty that is known, without cross-validation."""
    with _one_thread_a_product():
        return _Solver(features, labels, classes, prior).solve(penalty)


def cross_entropy(logits: Array, labels: NDArray[np.int64]) -> float:
    """Mean cross-entropy of `[rows, classes]` logits against class indices `[rows]`, in nats."""
    return float(-_log_softmax(logits)[np.arange(len(labels)), labels].mean())


def _one_thread_a_product() -> AbstractContextManager[object]:
    """Matrix products so small that handing half of one to another thread costs up to eight times what it saves."""
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limits


class _Solver:
    """Minimises the loss on given rows; each solution is the start of the next, weaker penalty."""

    def __init__(
        self, features: NDArray[np.floating], labels: NDArray[np.int64], classes: int, prior: Linear | None = None
    ) -> None:
        self._prior = prior
        self._offset: Array | float = 0.0 if prior is None else prior.logits(features)
        self._centre = features.mean(axis=0, dtype=np.float64)
        centred = features.astype(np.float64) - self._centre
        self._scale = float(np.sqrt((centred**2).mean())) or 1.0
        self._features = centred / self._scale
        self._target = np.zeros((len(labels), classes))
        self._target[np.arange(len(labels)), labels] = 1.0
        self._flat = np.zeros(classes * (features.shape[1] + 1))

    def solve(self, penalty: float, *, tolerance: float = 1e-9) -> tuple[Array, Array]:
        """Weights `[classes, width]` and bias `[classes]` for the features as they were given.

        `tolerance` is the relative gain of a step below which it stops.
        """
        from scipy.optimize import minimize

        found = minimize(
            self._loss_and_gradient,
            self._flat,
            args=(penalty,),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 500, "ftol": tolerance, "gtol": 1e-5},
        )
        self._flat = found.x
        matrix = self._flat.reshape(self._target.shape[1], -1)
        weight = matrix[:, :-1] / self._scale
        bias = matrix[:, -1] - weight @ self._centre
        if self._prior is None:
            return weight, bias
        return weight + self._prior.weight, bias + self._prior.bias

    def _loss_and_gradient(self, flat: Array, penalty: float) -> tuple[float, Array]:
        matrix = flat.reshape(self._target.shape[1], -1)
        weight, bias = matrix[:, :-1], matrix[:, -1]
        log_probabilities = _log_softmax(self._features @ weight.T + bias + self._offset)
        error = (np.exp(log_probabilities) - self._target) / len(self._target)
        gradient = np.empty_like(matrix)
        gradient[:, :-1] = error.T @ self._features + penalty * weight
        gradient[:, -1] = error.sum(axis=0)
        loss = -float((log_probabilities * self._target).sum()) / len(self._target)
        if self._prior is not None:
            gradient[:, -1] += penalty * bias
            loss += penalty / 2 * float((bias**2).sum())
        return loss + penalty / 2 * float((weight**2).sum()), gradient.ravel()


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
