"""The rows of a run: cleaned, split, their labels counted off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftwork.data.clean import clean_dataset
from graftwork.data.dataset import Dataset
from graftwork.data.similar import near_duplicate_groups
from graftwork.data.split import split_dataset
from graftwork.errors import DataRejected
from graftwork.training.config import TrainingConfig


@dataclass(frozen=True)
class PreparedRows:
    """Rows to train, to choose and to judge on. No near-duplicate stands on two sides.

    Attributes:
        rows: all rows but the test rows.
        labels: their class indices `[rows]`.
        groups: near-duplicates among them share an id `[rows]`.
        train: positions in `rows` that a delta is trained on.
        validation: positions in `rows` on which strategies are stopped, compared and calibrated.
        test: rows for the final judgement.
        test_labels: their class indices.
        test_held_out: the test rows were held out of the training file, not given.
        known_labels: the labels of an adapter that goes on with these rows, which need not have all of them.
    """

    rows: Dataset
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: Dataset
    test_labels: NDArray[np.int64]
    test_held_out: bool
    known_labels: tuple[str, ...] = ()

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels in the order of their indices."""
        return self.known_labels or self.rows.label_names

    @property
    def labels_not_validated(self) -> tuple[str, ...]:
        """Labels that no validation row has."""
        counts = np.bincount(self.labels[self.validation], minlength=len(self.label_names))
        return tuple(self.label_names[index] for index in np.flatnonzero(counts == 0))


def prepare_rows(rows: Dataset, test: Dataset | None, config: TrainingConfig) -> PreparedRows:
    """Clean and split.

    Args:
        rows: checked rows.
        test: rows to judge on; without them `config.test_share` of `rows` is held out.
        config: shares and seed.

    Raises:
        DataRejected: if no test row is left.
    """
    rows = clean_dataset(rows, test)
    judged = None if test is None else clean_dataset(test)
    if test is not None and not judged:
        raise DataRejected(
            f"{test.source}: no usable row is left to judge on",
            remedy="Give test rows with a text and one label each, or none: then training rows are held out.",
        )
    return split_rows(rows, near_duplicate_groups(rows.texts), judged, config)


def split_rows(
    rows: Dataset, groups: NDArray[np.int64], judged: Dataset | None, config: TrainingConfig
) -> PreparedRows:
    """Split clean rows.

    Args:
        rows: clean rows.
        groups: near-duplicates among them share an id `[rows]`.
        judged: clean rows to judge on; without them `config.test_share` of `rows` is held out.
        config: shares and seed.
    """
    held_out = judged is None
    if judged is None and config.test_share == 0:
        judged = rows.select([])
    elif judged is None:
        kept, aside = split_dataset(rows, groups=groups, share=config.test_share, seed=config.seed)
        judged = rows.select(aside)
        rows, groups = rows.select(kept), groups[kept]
    train, validation = split_dataset(rows, groups=groups, share=config.validation_share, seed=config.seed + 1)
    order = {label: index for index, label in enumerate(rows.label_names)}
    return PreparedRows(
        rows=rows,
        labels=np.array([order[label] for label in rows.labels], dtype=np.int64),
        groups=groups,
        train=train,
        validation=validation,
        test=judged,
        test_labels=np.array([order[label] for label in judged.labels], dtype=np.int64),
        test_held_out=held_out,
    )
