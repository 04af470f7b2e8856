"""The rows that lie nearest to others in an embedding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graftwork.evaluation.intervals import Floats, Ints


def nearest_rows(asked: NDArray[np.floating], known: NDArray[np.floating], *, count: int) -> tuple[Ints, Floats]:
    """The known vectors with the highest cosine similarity to each vector asked about.

    Args:
        asked: `[rows, width]`.
        known: `[known, width]`.
        count: how many to find; fewer when there are fewer.

    Returns:
        Positions in `known` `[rows, count]`, the nearest first (of equals the first), and their similarities.

    Example:
        >>> places, likeness = nearest_rows(np.array([[1.0, 0.1]]), np.array([[0.0, 2.0], [3.0, 0.0]]), count=1)
        >>> places.tolist(), likeness.round(3).tolist()
        ([[1]], [[0.995]])
    """
    similarity = _unit(asked) @ _unit(known).T
    places = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
    return np.asarray(places, dtype=np.int64), np.take_along_axis(similarity, places, axis=1)


def _unit(vectors: NDArray[np.floating]) -> Floats:
    """The vectors in float64, of length one; a vector of zeros stays what it is."""
    values = np.asarray(vectors, dtype=np.float64)
    unit: Floats = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    return unit
