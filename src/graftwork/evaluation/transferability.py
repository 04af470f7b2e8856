"""How well frozen features suit a task, told from features and labels alone, before anything is trained.

Scores order candidates (base models, poolings) for one task; they are no predictions of accuracy.
"""

from __future__ import annotations

import numpy as np

from graftwork.evaluation.intervals import Floats, Ints

_ROUNDS = 100
_SETTLED = 1e-6  # relative change of both precisions
_TINY = 1e-12


def log_me(features: Floats, labels: Ints, *, classes: int) -> float:
    """LogME: the log evidence a row of Bayesian linear regression onto each class's indicator, averaged over classes.

    The precisions of the prior and of the noise are those that maximise the evidence, found by MacKay's fixed point
    (You et al., arXiv 2102.11005, algorithm 1; the evidence is its equation 2). Unlike a probe's accuracy it cannot be
    raised by more features than the rows support.

    Args:
        features: `[rows, width]`.
        labels: class indices `[rows]`.
        classes: number of classes; one without rows counts like any other.

    Raises:
        ValueError: no rows, labels that do not fit, or features that are not finite.

    Example:
        >>> draw = np.random.default_rng(0)
        >>> labels = np.arange(40) % 2
        >>> noise = draw.normal(size=(40, 3))
        >>> telling = noise + 4 * labels[:, None]
        >>> log_me(telling, labels, classes=2) > log_me(noise, labels, classes=2)
        True
    """
    features, labels = _checked(features, labels, classes)
    rows, width = features.shape
    left, singular, _ = np.linalg.svd(features, full_matrices=False)
    squares = singular**2
    evidences = []
    for place in range(classes):
        target = (labels == place).astype(np.float64)
        projected = (left.T @ target) ** 2
        beyond = max(float(target @ target - projected.sum()), 0.0)  # what no direction of the features reaches
        evidences.append(_evidence(squares, projected, beyond, rows, width) / rows)
    return float(np.mean(evidences))


def _evidence(squares: Floats, projected: Floats, beyond: float, rows: int, width: int) -> float:
    """The maximal log evidence of one target.

    Args:
        squares: squared singular values of the features `[rank]`.
        projected: squared coordinates of the target along their left singular vectors `[rank]`.
        beyond: squared length of the target outside of these.
        rows: number of rows.
        width: of the features.
    """
    prior = noise = 1.0
    for _ in range(_ROUNDS):
        shrunk = prior + noise * squares
        effective = float((noise * squares / shrunk).sum())
        weights = float((noise**2 * squares * projected / shrunk**2).sum())
        residual = float((prior**2 * projected / shrunk**2).sum()) + beyond
        new_prior = max(effective, _TINY) / max(weights, _TINY)
        new_noise = max(rows - effective, _TINY) / max(residual, _TINY)
        settled = abs(new_prior / prior - 1) < _SETTLED and abs(new_noise / noise - 1) < _SETTLED
        prior, noise = new_prior, new_noise
        if settled:
            break
    shrunk = prior + noise * squares
    weights = float((noise**2 * squares * projected / shrunk**2).sum())
    residual = float((prior**2 * projected / shrunk**2).sum()) + beyond
    log_determinant = float(np.log(shrunk).sum()) + (width - len(squares)) * np.log(prior)
    return 0.5 * float(
        rows * np.log(noise)
        + width * np.log(prior)
        - rows * np.log(2 * np.pi)
        - noise * residual
        - prior * weights
        - log_determinant
    )


def h_score(features: Floats, labels: Ints, *, classes: int) -> float:
    """Shrunk H-score: the share of the features' variance that class means explain, summed over whitened directions.

    `trace(cov(f)^-1 cov(E[f | y]))` (Bao et al., ICIP 2019) with the covariance shrunk towards a multiple of the
    identity by Ledoit and Wolf's rule, and that of the class means alike (Ibrahim et al., arXiv 2110.06893): without
    that it is no use where features outnumber rows. It lies between 0 and `classes - 1`.

    Args:
        features: `[rows, width]`.
        labels: class indices `[rows]`.
        classes: number of classes.

    Raises:
        ValueError: no rows, labels that do not fit, or features that are not finite.
    """
    from sklearn.covariance import ledoit_wolf

    features, labels = _checked(features, labels, classes)
    centred = features - features.mean(axis=0)
    covariance, shrinkage = ledoit_wolf(centred, assume_centered=True)
    indicators = np.eye(classes)[labels]
    counts = np.maximum(indicators.sum(axis=0), 1.0)
    means = (indicators.T @ centred) / counts[:, None]
    between = np.sqrt(counts / len(labels))[:, None] * means
    whitened = np.linalg.lstsq(covariance, between.T, rcond=None)[0]
    return float((1 - shrinkage) * (between.T * whitened).sum())


def nearest_neighbour_accuracy(features: Floats, labels: Ints, *, classes: int, neighbours: int = 5) -> float:
    """Share of rows that the vote of their nearest other rows gets right, by cosine similarity.

    Args:
        features: `[rows, width]`.
        labels: class indices `[rows]`.
        classes: number of classes.
        neighbours: that vote; all others when there are fewer. Of equal votes the nearer ones decide.

    Raises:
        ValueError: fewer than two rows, labels that do not fit, or features that are not finite.
    """
    features, labels = _checked(features, labels, classes)
    if len(labels) < 2:
        raise ValueError("a row has no neighbour unless there are two")
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), _TINY)
    near = unit @ unit.T
    np.fill_diagonal(near, -np.inf)
    count = min(neighbours, len(labels) - 1)
    chosen = np.argsort(-near, axis=1, kind="stable")[:, :count]
    votes = np.zeros((len(labels), classes))
    nearer_first = 1.0 + np.arange(count, 0, -1) / (count * (count + 1.0))  # decides ties, never a majority
    for place in range(count):
        votes[np.arange(len(labels)), labels[chosen[:, place]]] += nearer_first[place]
    return float((votes.argmax(axis=1) == labels).mean())


def _checked(features: Floats, labels: Ints, classes: int) -> tuple[Floats, Ints]:
    features = np.asarray(features, dtype=np.float64)
    labels = np.asarray(labels, dtype=np.int64)
    if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
        raise ValueError(f"features of shape {features.shape} beside labels of shape {labels.shape}")
    if not np.isfinite(features).all():
        raise ValueError("features that are not finite")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels outside 0..{classes - 1}")
    return features, labels
