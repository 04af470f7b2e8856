"""Checks of the classes: too few, too many, too small, out of balance."""

from __future__ import annotations

from collections.abc import Sequence

from graftwork.data.dataset import Dataset
from graftwork.data.findings import Finding
from graftwork.data.rowchecks import finding, rows_phrase

MAX_CLASSES = 1000
"""Classes a classifier may have; more are nearly always a column of names or numbers taken for labels."""
FEW_ROWS = 8
"""Rows below which a class can hardly be learned, nor its quality judged."""
IMBALANCE = 10
"""The largest class over the smallest from which it is told."""


def check_classes(usable: Dataset, source: Dataset) -> list[Finding]:
    """Findings about the classes of the rows that are left after cleaning.

    Args:
        usable: the cleaned rows.
        source: the rows as they were read.
    """
    if not len(usable):
        message = f"none of the {rows_phrase(len(source))} is left: empty, contradictory or in the test set too"
        return [finding("no-rows", "error", message, source, (), remedy="Give texts with one label each.")]
    counts = usable.label_counts
    if len(counts) == 1:
        name = usable.label_names[0]
        message = f"all {rows_phrase(len(usable))} have one label, {name!r}; there is nothing to tell apart"
        return [finding("one-class", "error", message, usable, range(1), remedy="Give rows of two classes or more.")]
    found = []
    if len(counts) > MAX_CLASSES:
        message = f"{len(counts):,} classes; at most {MAX_CLASSES:,} are supported"
        remedy = "Is this the right label column? Otherwise merge rare classes."
        examples = usable.label_names
        found.append(
            finding(
                "too-many-classes", "error", message, usable, (), remedy=remedy, count=len(counts), examples=examples
            )
        )
    if len(counts) == len(usable) < len(source):
        message = f"all rows are repeats: {rows_phrase(len(source))} hold one distinct text a class"
        found.append(
            finding("all-duplicates", "error", message, usable, range(len(usable)), remedy="Give different texts.")
        )
        return found
    return found + _small_classes(usable) + _imbalance(usable)


def _small_classes(usable: Dataset) -> list[Finding]:
    counts = usable.label_counts
    single = [name for name in usable.label_names if counts[name] == 1]
    few = [name for name in usable.label_names if 1 < counts[name] < FEW_ROWS]
    found = []
    if single:
        message = f"{_classes(single)} only one usable row; one is needed to learn from and one to judge by"
        found.append(
            finding(
                "class-single-row",
                "error",
                message,
                usable,
                _first_rows(usable, single),
                remedy=f"Give each class {FEW_ROWS} rows or more (two at the very least), or leave the class out.",
                count=len(single),
                examples=single,
            )
        )
    if few:
        message = f"{_classes(few)} fewer than {FEW_ROWS} usable rows"
        found.append(
            finding(
                "class-few-rows",
                "warning",
                message,
                usable,
                _first_rows(usable, few),
                remedy="Label more rows of these classes first; their scores cannot be trusted.",
                count=len(few),
                examples=[f"{name} ({counts[name]})" for name in few],
            )
        )
    return found


def _imbalance(usable: Dataset) -> list[Finding]:
    ordered = usable.label_counts.most_common()
    (largest, most), (smallest, least) = ordered[0], ordered[-1]
    if most < IMBALANCE * least:
        return []
    message = f"{largest!r} has {most / least:.0f} times the rows of {smallest!r} ({most:,} and {least:,})"
    return [
        finding(
            "imbalance",
            "warning",
            message,
            usable,
            (),
            remedy="Judge by macro-F1 and by class rather than by accuracy; label more of the small classes.",
            count=len(ordered),
            examples=[f"{name} ({count:,})" for name, count in (ordered[0], *ordered[1:][-4:])],
        )
    ]


def _first_rows(usable: Dataset, names: Sequence[str]) -> list[int]:
    wanted = set(names)
    first: dict[str, int] = {}
    for i, label in enumerate(usable.labels):
        if label in wanted:
            first.setdefault(label, i)
    return sorted(first.values())


def _classes(names: Sequence[str]) -> str:
    return f"the class {names[0]!r} has" if len(names) == 1 else f"{len(names):,} classes have"
