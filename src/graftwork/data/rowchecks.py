"""Checks of single rows: empty, repeated, contradicting each other, damaged before we saw them."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from graftwork.data.clean import contradictory_texts, has_content, unreadable
from graftwork.data.dataset import Dataset
from graftwork.data.findings import Finding, Severity
from graftwork.data.media import shown

SHOWN = 5
"""Row numbers and examples that a finding carries."""
_EXAMPLE_LENGTH = 80
_NAMED = 50


def check_rows(dataset: Dataset) -> list[Finding]:
    """Findings about single rows; `clean_dataset` drops the empty, repeated and contradictory ones."""
    return [
        *_empty(dataset),
        *_contradictory(dataset),
        *_duplicates(dataset),
        *(_damaged(dataset) if dataset.modality == "text" else _unreadable(dataset)),
        *_label_variants(dataset),
    ]


def finding(
    code: str,
    severity: Severity,
    message: str,
    dataset: Dataset,
    indices: Sequence[int],
    *,
    remedy: str,
    count: int | None = None,
    examples: Iterable[str] | None = None,
) -> Finding:
    """A finding about rows at these positions of a dataset; examples are their texts unless others are given."""
    first = list(indices[:SHOWN])
    told = [shown(dataset.texts[i]) for i in first] if examples is None else list(examples)[:SHOWN]
    return Finding(
        code=code,
        severity=severity,
        message=message,
        count=len(indices) if count is None else count,
        rows=tuple(dataset.rows[i] for i in first),
        examples=tuple(shorten(example) for example in told),
        remedy=remedy,
    )


def shorten(text: str) -> str:
    """A text as a message shows it: one line, at most 80 characters."""
    line = " ".join(text[: 4 * _EXAMPLE_LENGTH].split())
    return line if len(line) <= _EXAMPLE_LENGTH else line[: _EXAMPLE_LENGTH - 1] + "…"


def rows_phrase(count: int) -> str:
    """`1 row` or `1,234 rows`."""
    return "1 row" if count == 1 else f"{count:,} rows"


def _empty(dataset: Dataset) -> list[Finding]:
    texts = [i for i, text in enumerate(dataset.texts) if not has_content(text)]
    labels = [i for i, label in enumerate(dataset.labels) if not has_content(label) and has_content(dataset.texts[i])]
    found = []
    if texts:
        message = f"{rows_phrase(len(texts))} without a text"
        remedy = "They are left out; give them a text or delete them."
        found.append(finding("empty-text", "warning", message, dataset, texts, remedy=remedy, examples=()))
    if labels:
        message = f"{rows_phrase(len(labels))} without a label"
        remedy = "They are left out; give them a label or delete them."
        found.append(finding("empty-label", "warning", message, dataset, labels, remedy=remedy))
    return found


def _contradictory(dataset: Dataset) -> list[Finding]:
    contradicted = contradictory_texts(dataset)
    if not contradicted:
        return []
    indices = [i for i, text in enumerate(dataset.texts) if text in contradicted and has_content(dataset.labels[i])]
    examples = [f"{shorten(shown(text))} → {', '.join(sorted(labels))}" for text, labels in contradicted.items()]
    texts = "1 text stands" if len(contradicted) == 1 else f"{len(contradicted):,} texts stand"
    message = f"{texts} there with different labels, in {rows_phrase(len(indices))}"
    return [
        finding(
            "contradictory-labels",
            "warning",
            message,
            dataset,
            indices,
            remedy="All of them are left out; decide which label is right.",
            examples=examples,
        )
    ]


def _duplicates(dataset: Dataset) -> list[Finding]:
    contradicted = contradictory_texts(dataset)
    seen: set[str] = set()
    repeats = []
    for i, (text, label) in enumerate(zip(dataset.texts, dataset.labels, strict=True)):
        if text in contradicted or not has_content(text) or not has_content(label):
            continue
        if text in seen:
            repeats.append(i)
        seen.add(text)
    if not repeats:
        return []
    most = Counter(dataset.texts[i] for i in repeats).most_common(SHOWN)
    phrase = f"{rows_phrase(len(repeats))} repeat{'s' if len(repeats) == 1 else ''} an earlier one"
    return [
        finding(
            "duplicate-rows",
            "warning",
            f"{phrase} ({len(repeats) / len(dataset):.1%} of all)",
            dataset,
            repeats,
            remedy="The first of each is kept, the rest are left out.",
            examples=[f"{shorten(shown(text))} ({count + 1} times)" for text, count in most],
        )
    ]


def _damaged(dataset: Dataset) -> list[Finding]:
    indices = [i for i, text in enumerate(dataset.texts) if "\ufffd" in text]
    if not indices:
        return []
    message = f"{rows_phrase(len(indices))} with the replacement character U+FFFD: letters were lost in an earlier step"
    remedy = "Export them again from where they came from, in UTF-8."
    return [finding("damaged-text", "warning", message, dataset, indices, remedy=remedy)]


def _unreadable(dataset: Dataset) -> list[Finding]:
    wrong = unreadable(dataset)
    if not wrong:
        return []
    told = [f"{shown(dataset.texts[i])} {why}" for i, why in wrong.items()]
    files = "1 file" if len(wrong) == 1 else f"{len(wrong):,} files"
    return [
        finding(
            "unreadable-media",
            "error",
            f"{files} cannot be used: {'; '.join(told[:_NAMED])}{'; …' if len(told) > _NAMED else ''}",
            dataset,
            list(wrong),
            remedy="Mend them or take them out; --skip-bad goes on without them.",
            examples=told,
        )
    ]


def _label_variants(dataset: Dataset) -> list[Finding]:
    variants: dict[str, list[str]] = defaultdict(list)
    for name in dataset.label_names:
        if has_content(name):
            variants[unicodedata.normalize("NFKC", " ".join(name.split())).casefold()].append(name)
    alike = [names for names in variants.values() if len(names) > 1]
    if not alike:
        return []
    counts = dataset.label_counts
    rare = {name for names in alike for name in names if name != max(names, key=lambda n: counts[n])}
    indices = [i for i, label in enumerate(dataset.labels) if label in rare]
    examples = [" / ".join(f"{name!r} ({counts[name]:,})" for name in names) for names in alike]
    labels = "1 label is" if len(alike) == 1 else f"{len(alike):,} labels are"
    return [
        finding(
            "label-variants",
            "warning",
            f"{labels} written in ways that differ only by case or space",
            dataset,
            indices,
            remedy="They count as different classes; write each class in one way.",
            count=len(alike),
            examples=examples,
        )
    ]
