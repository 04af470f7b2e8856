"""Rows of earlier tasks: some to estimate from what mattered, and others to see what was lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from graftwork.data.clean import clean_dataset
from graftwork.data.dataset import Dataset
from graftwork.errors import DataRejected
from graftwork.evaluation.forgetting import forgetting

if TYPE_CHECKING:
    from collections.abc import Callable

    from graftwork.evaluation.results import Forgetting

Answers = NDArray[np.float64]


@dataclass(frozen=True)
class Sources:
    """Rows of earlier tasks.

    Attributes:
        judged: by file, those on which the model after is compared with the one before.
        texts: those from which Fisher information is estimated.
    """

    judged: tuple[Dataset, ...] = ()
    texts: tuple[str, ...] = ()


def set_sources_aside(sources: Sequence[Dataset], *, learned: Dataset, estimate: bool, most: int, seed: int) -> Sources:
    """Clean them, leave out what is learned in this run, and set aside what Fisher information is estimated from.

    Args:
        sources: rows of earlier tasks, a file each.
        learned: rows of this run.
        estimate: whether some are to be set aside; at most half of each file is.
        most: how many at most.
        seed: of the choice.

    Raises:
        DataRejected: if a file has no row to judge on.
    """
    seen = set(learned.texts)
    judged, texts = [], list[str]()
    for source in sources:
        rows = clean_dataset(source)
        rows = rows.select([place for place, text in enumerate(rows.texts) if text not in seen])
        if len(rows) < 2:
            raise DataRejected(
                f"{source.source}: no usable row is left to see on it what is forgotten",
                remedy="Give rows of the earlier task, each with a text and a label, that are not among the new ones.",
            )
        order = np.random.default_rng(seed).permutation(len(rows))
        share = min(most // len(sources), len(rows) // 2) if estimate else 0
        texts += [rows.texts[place] for place in order[:share]]
        judged.append(rows.select(sorted(order[share:].tolist())))
    return Sources(tuple(judged), tuple(texts))


def measure_forgetting(
    sources: Sources,
    labels: Sequence[str],
    *,
    after: Callable[[Sequence[str]], Answers],
    before: Callable[[Sequence[str]], Answers],
    against: str,
    seed: int,
) -> tuple[Forgetting, ...]:
    """What was lost on each file.

    Args:
        sources: the rows.
        labels: label names in the order of the columns.
        after: probabilities `[texts, labels]` of the model that was trained.
        before: those of the one before.
        against: digest of the one before.
        seed: of the resamples.
    """
    place = {label: index for index, label in enumerate(labels)}
    return tuple(
        forgetting(
            after(rows.texts),
            before(rows.texts),
            np.array([place[label] for label in rows.labels], dtype=np.int64),
            source=rows.source,
            dataset_digest=rows.digest,
            against=against,
            seed=seed,
        )
        for rows in sources.judged
    )
