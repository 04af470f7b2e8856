from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from graftwork.training.folds import stratified_folds

rows = st.integers(10, 80).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 3), min_size=n, max_size=n),
        st.lists(st.integers(0, n), min_size=n, max_size=n),
    )
)


@given(rows, st.integers(2, 5), st.integers(0, 100))
def test_groups_stay_whole_and_the_seed_decides(drawn: tuple[list[int], list[int]], folds: int, seed: int) -> None:
    labels, groups = (np.array(part, dtype=np.int64) for part in drawn)
    assigned = stratified_folds(labels, groups, folds=folds, seed=seed)
    assert set(assigned.tolist()) <= set(range(folds))
    for group in np.unique(groups):
        assert len(set(assigned[groups == group].tolist())) == 1
    assert np.array_equal(assigned, stratified_folds(labels, groups, folds=folds, seed=seed))


@given(st.lists(st.integers(10, 40), min_size=2, max_size=4), st.integers(2, 5), st.integers(0, 100))
def test_every_fold_has_its_share_of_every_label(counts: list[int], folds: int, seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    assigned = stratified_folds(labels, np.arange(len(labels)), folds=folds, seed=seed)
    for label, count in enumerate(counts):
        held = np.bincount(assigned[labels == label], minlength=folds)
        assert held.min() >= count // folds
        assert held.max() <= -(-count // folds)
