"""How far two samples lie apart: by a classifier, by kernels, by words, by classes. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Array = NDArray[np.float64]
Ints = NDArray[np.int64]

_NORMAL = NormalDist()
_LEAST_SINGULAR = 0.05  # below it the predictions say too little of the classes to tell their shares


@dataclass(frozen=True)
class Auc:
    """Area under the ROC curve with a confidence interval."""

    value: float
    low: float
    high: float


def auc(scores: Floats, positive: NDArray[np.bool_], *, level: float = 0.95) -> Auc:
    """The chance that a positive row scores higher than a negative one, ties counting half.

    The variance is DeLong's (Biometrics 44, 1988) by ranks (Sun & Xu 2014); the interval is made on the logit scale, so
    that it stays between 0 and 1. Where nothing varies, one limit is that of the rule of three.

    Args:
        scores: `[rows]`.
        positive: which rows are positive `[rows]`; some must be, and some not.
        level: confidence level.
    """
    from scipy.stats import rankdata

    ours, theirs = scores[positive], scores[~positive]
    m, n = len(ours), len(theirs)
    together = rankdata(np.concatenate([ours, theirs]))
    above = (together[:m] - rankdata(ours)) / n  # for each positive the share of negatives below it
    below = 1 - (together[m:] - rankdata(theirs)) / m
    value = float(above.mean())
    variance = float(above.var(ddof=1) / m + below.var(ddof=1) / n) if min(m, n) > 1 else 0.25
    if variance == 0 or value in (0.0, 1.0):
        room = min(1.0, 3 / min(m, n))
        return Auc(value, max(0.0, value - room), min(1.0, value + room))
    logit = math.log(value / (1 - value))
    half = _NORMAL.inv_cdf((1 + level) / 2) * math.sqrt(variance) / (value * (1 - value))
    low, high = (1 / (1 + math.exp(-edge)) for edge in (logit - half, logit + half))
    return Auc(value, low, high)


@dataclass(frozen=True)
class Mmd:
    """Squared maximum mean discrepancy, and how often chance gives one as large.

    Attributes:
        value: unbiased estimate; below 0 by chance when there is no difference.
        p_value: of the permutation test.
        bandwidth: sigma of the kernel exp(-d^2 / (2 sigma^2)).
    """

    value: float
    p_value: float
    bandwidth: float


def mmd(source: Floats, target: Floats, *, permutations: int, seed: int) -> Mmd:
    """Maximum mean discrepancy with a Gaussian kernel (Gretton et al., JMLR 13, 2012).

    The bandwidth is the median distance of all pairs. Memory grows with the square of the rows.

    Args:
        source: `[m, width]`.
        target: `[n, width]`.
        permutations: of the test; the least p-value is 1 / (permutations + 1).
        seed: of the permutations.
    """
    both = np.concatenate([source, target]).astype(np.float64)
    squares = (both**2).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * both @ both.T, 0)
    bandwidth = float(np.sqrt(np.median(distances[np.triu_indices(len(both), 1)]))) or 1.0
    kernel = np.exp(-distances / (2 * bandwidth**2))
    np.fill_diagonal(kernel, 0)
    first = np.zeros((len(both), permutations + 1))
    first[: len(source), 0] = 1
    random = np.random.default_rng(seed)
    for column in range(1, permutations + 1):
        first[random.permutation(len(both))[: len(source)], column] = 1
    values = _mmd_of(kernel, first)
    beyond = int((values[1:] >= values[0] - 1e-15).sum())
    return Mmd(float(values[0]), (beyond + 1) / (permutations + 1), bandwidth)


def _mmd_of(kernel: Array, first: Array) -> Array:
    """The estimate for each column, which says which rows are of the first sample."""
    second = 1 - first
    m, n = first[:, 0].sum(), second[:, 0].sum()
    to_first = kernel @ first
    within = (first * to_first).sum(axis=0) / (m * (m - 1))
    between = (second * to_first).sum(axis=0) / (m * n)
    other = (second * (kernel @ second)).sum(axis=0) / (n * (n - 1))
    result: Array = within + other - 2 * between
    return result


@dataclass(frozen=True)
class Vocabulary:
    """How the words differ.

    Attributes:
        new_tokens: share of the target's tokens that no source row has.
        unknown_source: share of the source's tokens that are the unknown token.
        unknown_target: the same of the target.
        divergence: Jensen-Shannon divergence of the token frequencies in bits, 0 to 1.
    """

    new_tokens: float
    unknown_source: float
    unknown_target: float
    divergence: float


def vocabulary_shift(
    source: Sequence[Sequence[int]], target: Sequence[Sequence[int]], unknown: int | None
) -> Vocabulary:
    """Compare the frequencies of token ids, special tokens left out."""
    ours, theirs = (np.concatenate([np.asarray(row, dtype=np.int64) for row in rows]) for rows in (source, target))
    size = int(max(ours.max(initial=0), theirs.max(initial=0))) + 1
    counts = [np.bincount(tokens, minlength=size) for tokens in (ours, theirs)]
    p, q = (count / max(count.sum(), 1) for count in counts)
    return Vocabulary(
        new_tokens=float(q[counts[0] == 0].sum()),
        unknown_source=0.0 if unknown is None or unknown >= size else float(p[unknown]),
        unknown_target=0.0 if unknown is None or unknown >= size else float(q[unknown]),
        divergence=jensen_shannon(p, q),
    )


def jensen_shannon(p: Array, q: Array) -> float:
    """Jensen-Shannon divergence of two distributions in bits: 0 for the same, 1 for disjoint ones.

    Example:
        >>> jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
        1.0
    """
    middle = (p + q) / 2

    def bits(of: Array) -> float:
        there = of > 0
        return float((of[there] * np.log2(of[there] / middle[there])).sum())

    return max(0.0, (bits(p) + bits(q)) / 2)


def label_shares(held_out: Ints, truth: Ints, target: Ints, *, classes: int) -> Array | None:
    """Class shares of the target by black box shift estimation (Lipton et al., arXiv 1802.03916).

    Right when only the shares of the classes differ and the texts of a class are alike in both domains; otherwise a
    guess.

    Args:
        held_out: predicted class of each source row by a model that did not see it `[rows]`.
        truth: their classes `[rows]`.
        target: predicted class of each target row `[target rows]`.
        classes: number of classes.

    Returns:
        Shares `[classes]`, or None when the predictions say too little of the classes.
    """
    joint = np.zeros((classes, classes))
    np.add.at(joint, (held_out, truth), 1 / len(truth))
    shares = np.bincount(truth, minlength=classes) / len(truth)
    if np.any(shares == 0):
        return None
    conditional = joint / shares
    if np.linalg.svd(conditional, compute_uv=False)[-1] < _LEAST_SINGULAR:
        return None
    seen = np.bincount(target, minlength=classes) / len(target)
    found = np.maximum(np.linalg.solve(conditional, seen), 0)
    result: Array = found / found.sum()
    return result
