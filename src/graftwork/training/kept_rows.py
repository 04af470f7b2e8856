"""The rows of an adapter that goes on: new ones and old ones, each with a part that is kept back for the gate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graftwork.data.clean import clean_dataset
from graftwork.data.dataset import Dataset
from graftwork.data.similar import near_duplicate_groups
from graftwork.data.split import split_dataset
from graftwork.errors import DataRejected
from graftwork.registry.artifact import Artifact
from graftwork.training.config import TrainingConfig
from graftwork.training.rows import PreparedRows, prepare_rows

_FEWEST = 4


@dataclass(frozen=True)
class Side:
    """New rows, or old ones.

    Attributes:
        learned: those to learn from.
        kept: those kept back.
    """

    learned: Dataset
    kept: Dataset


def set_rows_aside(
    rows: Dataset, replay: Dataset | None, previous: Artifact, config: TrainingConfig
) -> tuple[Side, Side]:
    """New and old rows, each with those kept back; where both hold a text, what was said last counts.

    Args:
        rows: new rows.
        replay: old rows, or None.
        previous: the adapter that goes on; when `replay` is what it was trained on, what it was judged on is kept back.
        config: shares and seed.

    Raises:
        DataRejected: if there are too few new rows.
    """
    new = _set_aside(clean_dataset(rows), config)
    if not len(new.kept) or len(new.learned) < _FEWEST:
        raise DataRejected(
            f"{rows.source}: {len(new.learned) + len(new.kept)} usable rows are too few to learn from and to check on",
            remedy=f"Give {2 * _FEWEST} different texts or more, two of some label at least.",
        )
    if replay is None:
        return new, Side(rows.select([]), rows.select([]))
    record = previous.manifest.dataset
    old = None
    if replay.digest == record.digest and record.test_source == "held-out" and record.test_rows:
        before = prepare_rows(replay, None, TrainingConfig.parse(start=previous.manifest.settings))
        if before.test.digest == record.test_digest:
            old = Side(before.rows, before.test)
    old = old or _set_aside(clean_dataset(replay), config)
    said = set(rows.texts)
    return new, Side(*(_without(part, said) for part in (old.learned, old.kept)))


def _set_aside(rows: Dataset, config: TrainingConfig) -> Side:
    if not len(rows):
        return Side(rows, rows)
    share = config.test_share or TrainingConfig().test_share
    learned, kept = split_dataset(rows, groups=near_duplicate_groups(rows.texts), share=share, seed=config.seed)
    return Side(rows.select(learned), rows.select(kept))


def _without(rows: Dataset, texts: set[str]) -> Dataset:
    return rows.select([index for index, text in enumerate(rows.texts) if text not in texts])


def prepare_kept_rows(new: Side, old: Side, labels: tuple[str, ...], config: TrainingConfig) -> PreparedRows:
    """The rows of the run: to learn from, and after one another the new and the old ones that were kept back."""
    kept, learned = _joined(new.kept, old.kept), _joined(new.learned, old.learned)
    learned = _without(learned, set(kept.texts))
    groups = near_duplicate_groups(learned.texts)
    train, validation = split_dataset(learned, groups=groups, share=config.validation_share, seed=config.seed + 1)
    place = {label: index for index, label in enumerate(labels)}
    return PreparedRows(
        rows=learned,
        labels=np.array([place[label] for label in learned.labels], dtype=np.int64),
        groups=groups,
        train=train,
        validation=validation,
        test=kept,
        test_labels=np.array([place[label] for label in kept.labels], dtype=np.int64),
        test_held_out=True,
        known_labels=labels,
    )


def _joined(one: Dataset, other: Dataset) -> Dataset:
    return Dataset(one.texts + other.texts, one.labels + other.labels, one.rows + other.rows, one.source, one.notes)
