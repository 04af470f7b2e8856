"""Splits: complete, stratified, and no group torn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.data.dataset import Dataset
from graftwork.data.split import split_dataset
from graftwork.errors import SettingsInvalid

# rows as (group, label); a label by group gives groups of one class each
PURE = st.lists(st.integers(0, 15), min_size=1, max_size=60).map(lambda gs: [(g, f"c{g % 4}") for g in gs])
MIXED = st.lists(st.tuples(st.integers(0, 10), st.sampled_from(["x", "y", "z"])), min_size=1, max_size=40)
SHARES = st.sampled_from([0.05, 0.15, 0.3, 0.5, 0.9])


def split(rows, share, seed=0):
    dataset = Dataset.from_lists([str(i) for i in range(len(rows))], [label for _, label in rows])
    return split_dataset(dataset, groups=np.array([group for group, _ in rows]), share=share, seed=seed)


@given(rows=st.one_of(PURE, MIXED), share=SHARES, seed=st.integers(0, 5))
def test_complete_disjoint_untorn_and_the_same_by_seed(rows, share, seed):
    kept, held = split(rows, share, seed)
    assert sorted([*kept, *held]) == list(range(len(rows)))
    assert kept.dtype == held.dtype == np.int64
    assert not {rows[i][0] for i in kept} & {rows[i][0] for i in held}
    again = split(rows, share, seed)
    assert kept.tolist() == again[0].tolist()
    assert held.tolist() == again[1].tolist()


@given(rows=PURE, share=SHARES)
def test_each_class_is_on_both_sides_when_it_has_two_groups(rows, share):
    kept, held = split(rows, share)
    for label in {label for _, label in rows}:
        groups = {group for group, name in rows if name == label}
        on_both = label in {rows[i][1] for i in kept} and label in {rows[i][1] for i in held}
        assert on_both == (len(groups) > 1)


@given(rows=MIXED)
def test_a_class_is_always_kept(rows):
    kept, _ = split(rows, 0.2)
    assert {rows[i][1] for i in kept} == {label for _, label in rows}


def test_each_class_gives_its_share():
    rows = [(i, "big" if i < 900 else "small") for i in range(1000)]
    _, held = split(rows, 0.2)
    labels = [rows[i][1] for i in held]
    assert (labels.count("big"), labels.count("small")) == (180, 20)


def test_a_class_too_small_for_its_share_gives_one_row():
    kept, held = split([(i, "xy"[i % 2]) for i in range(8)], 0.05)
    assert (len(kept), len(held)) == (6, 2)


def test_another_seed_gives_another_split():
    rows = [(i, "xy"[i % 2]) for i in range(100)]
    assert split(rows, 0.2, seed=0)[1].tolist() != split(rows, 0.2, seed=1)[1].tolist()


def test_a_group_larger_than_the_share_stays_on_the_kept_side():
    rows = [(0, "x")] * 60 + [(i, "x") for i in range(1, 41)] + [(100 + i, "y") for i in range(10)]
    _, held = split(rows, 0.2)
    assert 0 not in {rows[i][0] for i in held}
    assert sum(rows[i][1] == "x" for i in held) == 20


def test_classes_that_share_a_group_are_both_judged():
    rows = [(0, "x"), (0, "y"), (1, "x"), (2, "y")]
    kept, held = split(rows, 0.5)
    assert {rows[i][1] for i in kept} == {rows[i][1] for i in held} == {"x", "y"}


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.2])
def test_a_share_that_leaves_a_side_empty_is_refused(share):
    with pytest.raises(SettingsInvalid, match="cannot be held out"):
        split([(0, "x")], share)


def test_groups_of_another_length_are_refused():
    with pytest.raises(ValueError, match="differ in length"):
        split_dataset(Dataset.from_lists(["a"], ["x"]), groups=np.arange(2), share=0.5, seed=0)
