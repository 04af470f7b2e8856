"""What can be said of a classifier on the target without its labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Array = NDArray[np.float64]

_CLIP = 20.0  # the heaviest row weighs at most so many times the mean
_TINY = 1e-12


class Scores(BaseModel):
    """One candidate's scores.

    Attributes:
        weighted_loss: log loss on held-out labelled rows, weighted as the target has them (Sugiyama et al., JMLR 8,
            2007).
        weighted_accuracy: accuracy with the same weights.
        source_accuracy: accuracy on held-out labelled rows.
        neighbourhood_density: mean entropy of the similarities of target answers (Saito et al., arXiv 2108.10860).
        information: entropy of the mean target answer less the mean entropy of the answers, nats: certain and diverse
            answers have much of it.
        agreement: share of the target rows on which it answers as the mean of all candidates does (Hu et al.,
            NeurIPS 2024).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weighted_loss: float
    weighted_accuracy: float
    source_accuracy: float
    neighbourhood_density: float
    information: float
    agreement: float


def importance_weights(scores: Array, domain_rows: tuple[int, int]) -> Array:
    """How much more frequent each source row is in the target, `[source rows]`, of mean 1.

    A logistic regression that tells the domains apart gives the ratio of their densities up to a factor (Bickel et al.,
    ICML 2007). Weights above 20 times the mean are cut, so that no single row decides.

    Args:
        scores: logit of "it is of the target" of each source row.
        domain_rows: source and target rows that the regression saw.
    """
    source, target = domain_rows
    ratio = np.exp(np.clip(scores, -30, 30)) * source / target
    ratio = ratio / ratio.mean()
    ratio = np.minimum(ratio, _CLIP)
    result: Array = ratio / ratio.mean()
    return result


def effective_rows(weights: Array) -> float:
    """Rows of equal weight that say as much (Kish)."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def entropy(probabilities: Array) -> Array:
    """Entropy of each row in nats."""
    result: Array = -(probabilities * np.log(probabilities + _TINY)).sum(axis=-1)
    return result


def information(probabilities: Array) -> float:
    """Mutual information of rows and answers in nats, of probabilities `[rows, classes]`."""
    return float(entropy(probabilities.mean(axis=0)) - entropy(probabilities).mean())


def neighbourhood_density(probabilities: Array, *, temperature: float = 0.05) -> float:
    """Soft neighbourhood density (Saito et al., arXiv 2108.10860): mean entropy of a softmax over similarities.

    Args:
        probabilities: answers `[rows, classes]`.
        temperature: divides the cosines before the softmax.
    """
    unit = probabilities / np.linalg.norm(probabilities, axis=1, keepdims=True)
    similar = unit @ unit.T / temperature
    np.fill_diagonal(similar, -np.inf)
    similar = np.exp(similar - similar.max(axis=1, keepdims=True))
    return float(entropy(similar / similar.sum(axis=1, keepdims=True)).mean())


def weighted_loss(probabilities: Array, labels: NDArray[np.int64], weights: Array) -> float:
    """Importance-weighted log loss of `[rows, classes]` against class indices `[rows]`."""
    loss = -np.log(probabilities[np.arange(len(labels)), labels] + _TINY)
    return float((weights * loss).sum() / weights.sum())


def weighted_accuracy(probabilities: Array, labels: NDArray[np.int64], weights: Array) -> float:
    """Importance-weighted accuracy."""
    return float((weights * (probabilities.argmax(axis=1) == labels)).sum() / weights.sum())
