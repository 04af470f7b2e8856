"""Answers with known properties, for the tests of this folder."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DIGEST = "a" * 64


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True), dtype=np.float64)


def sample(
    rows: int, classes: int, *, spread: float = 2.0, overconfidence: float = 1.0, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Probabilities and truth; the truth is drawn from the softmax of the logits before they are multiplied."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, spread, (rows, classes))
    truth = np.asarray((logits + generator.gumbel(size=logits.shape)).argmax(axis=1), dtype=np.int64)
    return softmax(logits * overconfidence), truth


def certain(predicted: list[int], classes: int, confidence: float = 1.0) -> NDArray[np.float64]:
    """Probabilities that put `confidence` on each predicted class and share the rest."""
    probabilities = np.full((len(predicted), classes), (1 - confidence) / (classes - 1))
    probabilities[np.arange(len(predicted)), predicted] = confidence
    return probabilities
