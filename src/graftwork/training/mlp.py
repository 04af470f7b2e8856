"""A head with one hidden layer on pooled features, by scikit-learn's `MLPClassifier`."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Mlp:
    """A fitted head: `relu(features @ hidden.T + hidden_bias) @ weight.T + bias`.

    Attributes:
        hidden_weight: float64 `[hidden, width]`.
        hidden_bias: float64 `[hidden]`.
        weight: float64 `[classes, hidden]`.
        bias: float64 `[classes]`.
    """

    hidden_weight: Array
    hidden_bias: Array
    weight: Array
    bias: Array

    def logits(self, features: NDArray[np.floating]) -> Array:
        """Logits `[rows, classes]` of pooled features `[rows, width]`."""
        hidden = np.maximum(features.astype(np.float64) @ self.hidden_weight.T + self.hidden_bias, 0.0)
        return hidden @ self.weight.T + self.bias


def fit_mlp(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    *,
    classes: int,
    hidden: int,
    penalty: float,
    seed: int,
) -> Mlp:
    """Fit the head by Adam, in small batches, until the loss falls no more or for 100 epochs.

    Features are centred and divided by one scale, which is folded into the hidden layer afterwards.

    Args:
        features: pooled features `[rows, width]`.
        labels: class indices `[rows]`; every class occurs.
        classes: number of classes.
        hidden: units of the hidden layer.
        penalty: L2 penalty on all weights.
        seed: decides the initial values and the order of rows.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits

    centre = features.mean(axis=0, dtype=np.float64)
    centred = features.astype(np.float64) - centre
    scale = float(np.sqrt((centred**2).mean())) or 1.0
    network = MLPClassifier((hidden,), alpha=penalty, batch_size=min(32, len(labels)), max_iter=100, random_state=seed)
    # Products so small that a second thread costs more than it saves.
    with warnings.catch_warnings(), threadpool_limits(limits=1, user_api="blas"):
        # It stops when it is told to; that it might go on is no fault.
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(centred / scale, labels)
    first, last = (np.asarray(matrix, np.float64).T for matrix in network.coefs_)
    bias = np.asarray(network.intercepts_[1], np.float64)
    if classes == 2:  # a single unit says how far the second class is above the first
        last, bias = np.vstack([-last, last]) / 2, np.concatenate([-bias, bias]) / 2
    hidden_weight = first / scale
    return Mlp(hidden_weight, np.asarray(network.intercepts_[0], np.float64) - hidden_weight @ centre, last, bias)
