"""Folds for cross-validation: stratified by label, near-duplicates kept together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def stratified_folds(
    labels: NDArray[np.int64], groups: NDArray[np.int64], *, folds: int, seed: int
) -> NDArray[np.int64]:
    """Assign each row to a fold.

    Whole groups are dealt out in random order, each to the fold that so far has the fewest rows of the group's first
    label, so that every fold has about the same share of every label and no group is torn.

    Args:
        labels: class indices `[rows]`.
        groups: group ids `[rows]`; rows of one group stay together.
        folds: how many folds.
        seed: decides the order of dealing.

    Returns:
        Fold indices `[rows]` in `0 .. folds - 1`.
    """
    order = np.random.default_rng(seed).permutation(np.unique(groups))
    rows_of: dict[int, list[int]] = {int(group): [] for group in order}
    for row, group in enumerate(groups):
        rows_of[int(group)].append(row)
    filled = np.zeros((folds, int(labels.max(initial=0)) + 1), dtype=np.int64)
    assigned = np.empty(len(labels), dtype=np.int64)
    for group in order:
        rows = rows_of[int(group)]
        label = labels[rows[0]]
        fold = int(np.lexsort((filled.sum(axis=1), filled[:, label]))[0])
        assigned[rows] = fold
        np.add.at(filled[fold], labels[rows], 1)
    return assigned
