"""The same classifier on parts of the test rows: by language, by source, by any column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field

from graftwork.errors import DataRejected
from graftwork.evaluation.evaluate import evaluate
from graftwork.evaluation.intervals import Floats, Ints
from graftwork.evaluation.results import Frozen, Interval
from graftwork.evaluation.tables import Table, percent

MOST_SLICES = 100


class Slice(Frozen):
    """A classifier's quality on some of the rows.

    Attributes:
        name: what these rows have in common.
        rows: how many there are.
        accuracy: share of them whose most probable class is right.
        macro_f1: mean F1 over the classes that occur in them or were predicted.
        unknown_tokens: share of their tokens that the base's tokenizer does not know, None when it was not counted.
    """

    name: str
    rows: int = Field(ge=1)
    accuracy: Interval
    macro_f1: Interval
    unknown_tokens: float | None = None


def evaluate_slices(
    probabilities: Floats,
    truth: Ints,
    labels: Sequence[str],
    names: Sequence[str],
    *,
    majority: int,
    unknown_tokens: Mapping[str, float] | None = None,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[Slice, ...]:
    """Measure a classifier on each slice of the rows; intervals are those of `evaluate`.

    Args:
        probabilities: `[rows, classes]`, each row summing to one.
        truth: class index of each row `[rows]`.
        labels: label names in the order of the columns.
        names: the slice of each row `[rows]`.
        majority: index of the most frequent class in training.
        unknown_tokens: share of unknown tokens by slice.
        seed: seed of the resamples.
        level: confidence level of the intervals.

    Returns:
        The slices, the largest first, equals by name.

    Raises:
        DataRejected: if there are more than 100 slices.
    """
    counts = Counter(names)
    if len(counts) > MOST_SLICES:
        raise DataRejected(
            f"{len(counts):,} slices are too many to be judged one by one; at most {MOST_SLICES} are",
            remedy="Name a column with few distinct values, such as a language or a source.",
        )
    slices = []
    for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        chosen = np.flatnonzero([each == name for each in names])
        found = evaluate(
            probabilities[chosen],
            truth[chosen],
            labels,
            majority=majority,
            dataset_digest="",
            seed=seed,
            level=level,
        )
        share = None if unknown_tokens is None else round(unknown_tokens[name], 6)
        slices.append(
            Slice(name=name, rows=count, accuracy=found.accuracy, macro_f1=found.macro_f1, unknown_tokens=share)
        )
    return tuple(slices)


def slices_table(slices: Sequence[Slice], *, by: str) -> Table:
    """One row a slice.

    Args:
        slices: what was measured.
        by: what they were told apart by.
    """
    return Table(
        title=f"By {by}",
        columns=(by, "rows", "accuracy", "macro-F1", "unknown tokens"),
        rows=tuple(
            (
                each.name,
                f"{each.rows:,}",
                percent(each.accuracy),
                percent(each.macro_f1),
                "–" if each.unknown_tokens is None else f"{each.unknown_tokens:.2%}",
            )
            for each in slices
        ),
    )


def length_slices(lengths: Sequence[int], *, unit: str) -> list[str]:
    """The slice of each row by its length: three of about the same size, fewer where lengths hardly differ.

    Args:
        lengths: of the rows.
        unit: what they are counted in.

    Example:
        >>> length_slices([3, 4, 5, 9, 12, 40], unit="tokens")
        ['up to 4 tokens', 'up to 4 tokens', '5 to 9 tokens', '5 to 9 tokens', 'over 9 tokens', 'over 9 tokens']
    """
    ordered = sorted(lengths)
    edges = sorted({ordered[max(0, len(ordered) * part // 3 - 1)] for part in (1, 2)} - {ordered[-1]})
    names = [f"up to {edge:,} {unit}" if not place else f"{edges[place - 1] + 1:,} to {edge:,} {unit}"
             for place, edge in enumerate(edges)]  # fmt: skip
    names.append(f"over {edges[-1]:,} {unit}" if edges else f"all, up to {ordered[-1]:,} {unit}")
    return [names[int(np.searchsorted(edges, length, side="left"))] for length in lengths]


def unknown_slices(unknown: Sequence[int], tokens: Sequence[int]) -> list[str]:
    """The slice of each row by the share of its tokens that the tokenizer does not know.

    Example:
        >>> unknown_slices([0, 1, 3], [10, 40, 4])
        ['none unknown', 'up to 5 % unknown', 'over 5 % unknown']
    """
    return [
        "none unknown" if not lost else "up to 5 % unknown" if lost <= 0.05 * count else "over 5 % unknown"
        for lost, count in zip(unknown, tokens, strict=True)
    ]
