"""Hold out a share of the rows without letting a text's near-duplicate stand on the other side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graftwork.data.dataset import Dataset
from graftwork.errors import SettingsInvalid

Ints = NDArray[np.int64]


def split_dataset(dataset: Dataset, *, groups: NDArray[np.integer], share: float, seed: int) -> tuple[Ints, Ints]:
    """Split rows in two, stratified by label, no group torn.

    Each class aims at `share` of its own rows. A class whose rows form at least two groups is on both sides, as
    far as groups that mix labels allow; a class of one group is kept.

    Args:
        dataset: n rows.
        groups: integer [n], rows that must stay together share an id (see `near_duplicate_groups`).
        share: the part to hold out, over 0 and under 1.
        seed: the same seed gives the same split.

    Returns:
        Indices of the kept and of the held-out rows, int64, each ascending; together every row once.

    Raises:
        SettingsInvalid: the share is not between 0 and 1.

    Example:
        >>> data = Dataset.from_lists(["a", "b", "c", "d"], ["x", "x", "y", "y"])
        >>> kept, held = split_dataset(data, groups=np.arange(4), share=0.5, seed=0)
        >>> len(kept), sorted(data.select(held).labels)
        (2, ['x', 'y'])
    """
    if not 0 < share < 1:
        raise SettingsInvalid(
            f"a share of {share} cannot be held out", remedy="Give a share between 0 and 1, such as 0.2."
        )
    if len(groups) != len(dataset):
        raise ValueError("groups and dataset differ in length")
    name_of = {name: i for i, name in enumerate(dataset.label_names)}
    classes = np.array([name_of[label] for label in dataset.labels], dtype=np.int64)
    _, group_of = np.unique(groups, return_inverse=True)
    sides = _Sides(classes, group_of, len(name_of))
    rng = np.random.default_rng(seed)
    # classes with the fewest groups choose first: they have the least room
    for name in sorted(range(len(name_of)), key=lambda c: (len(sides.groups_of[c]), c)):
        undecided = [group for group in sides.groups_of[name] if group not in sides.decided]
        order = [undecided[i] for i in rng.permutation(len(undecided))]
        _fill(sides, name, order, target=max(1, round(share * sides.rows[name])))
    _fill_empty(sides)
    held_out = sides.held[group_of]
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


class _Sides:
    """Which groups are held out, and how many rows of each class that makes."""

    def __init__(self, classes: Ints, group_of: Ints, class_count: int) -> None:
        self.decided: set[int] = set()
        self.content: dict[int, dict[int, int]] = {}
        for name, group in zip(classes.tolist(), group_of.tolist(), strict=True):
            counts = self.content.setdefault(group, {})
            counts[name] = counts.get(name, 0) + 1
        self.groups_of: list[list[int]] = [[] for _ in range(class_count)]
        for group in sorted(self.content):
            for name in self.content[group]:
                self.groups_of[name].append(group)
        self.rows: list[int] = np.bincount(classes, minlength=class_count).tolist()
        self.held_rows = [0] * class_count
        self.held = np.zeros(len(self.content), dtype=np.bool_)

    def place(self, group: int, *, held: bool) -> None:
        """Put a group on a side, from wherever it was."""
        self.decided.add(group)
        change = int(held) - int(self.held[group])
        self.held[group] = held
        for name, count in self.content[group].items():
            self.held_rows[name] += change * count

    def can_hold(self, group: int) -> bool:
        """Whether every class of this group keeps rows when the group is held out."""
        return all(self.held_rows[name] + count < self.rows[name] for name, count in self.content[group].items())


def _fill(sides: _Sides, name: int, order: Sequence[int], *, target: int) -> None:
    """Hold out groups of a class, in this order, as long as they fit its target."""
    for group in order:
        fits = sides.held_rows[name] + sides.content[group][name] <= target
        sides.place(group, held=fits and sides.can_hold(group))


def _fill_empty(sides: _Sides) -> None:
    """Hold out the smallest group that can be of each class that has none: all are over the target, or mixed."""
    for name, groups in enumerate(sides.groups_of):
        if sides.held_rows[name] == 0:
            free = [group for group in groups if sides.can_hold(group)]
            if free:
                sides.place(min(free, key=lambda group: (sides.content[group][name], group)), held=True)
