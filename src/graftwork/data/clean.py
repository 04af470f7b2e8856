"""Drop the rows that nothing sound can be learned from."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from graftwork.data.dataset import Dataset
from graftwork.data.findings import Finding
from graftwork.data.media import Media, shown

_SHOWN = 20


def clean_dataset(dataset: Dataset, test: Dataset | None = None) -> Dataset:
    """Drop what `check_dataset` reported as unusable; what stays is unchanged and in its order.

    Dropped are rows without a text or a label, every row of a text that stands there with different labels, repeats
    of a row (the first stays), and rows whose text is in `test`. Texts are the same when every character is.

    Example:
        >>> data = Dataset.from_lists(["good", "good", "odd", "odd", ""], ["p", "p", "p", "n", "n"])
        >>> clean_dataset(data).texts
        ('good',)
    """
    contradicted = contradictory_texts(dataset)
    seen = set(test.texts) if test is not None else set()
    kept = []
    for index, (text, label) in enumerate(zip(dataset.texts, dataset.labels, strict=True)):
        if text in seen or text in contradicted or not has_content(text) or not has_content(label):
            continue
        seen.add(text)
        kept.append(index)
    return dataset.select(kept)


def unreadable(dataset: Dataset) -> dict[int, str]:
    """Why files cannot be used, by their position; of texts nothing."""
    from graftwork.data.kinds import kind_of

    if dataset.modality == "text":
        return {}
    kind = kind_of(dataset.modality)
    return {
        i: told
        for i, item in enumerate(dataset.texts)
        if isinstance(item, Media) and (told := kind.what_is_wrong(item))
    }


def without_unreadable(dataset: Dataset) -> Dataset:
    """The rows whose files can be used, with a note that names the others; texts stay as they are."""
    wrong = unreadable(dataset)
    if not wrong:
        return dataset
    note = Finding(
        code="skipped-media",
        severity="warning",
        message=f"{len(wrong):,} of {len(dataset):,} files cannot be used and were skipped",
        count=len(wrong),
        rows=tuple(dataset.rows[i] for i in list(wrong)[:_SHOWN]),
        examples=tuple(f"{shown(dataset.texts[i])}: {told}" for i, told in list(wrong.items())[:_SHOWN]),
        remedy="Mend them for the next run.",
    )
    kept = dataset.select(i for i in range(len(dataset)) if i not in wrong)
    return replace(kept, notes=(*kept.notes, note))


def has_content(text: str) -> bool:
    """Whether there is anything but white space."""
    return bool(text) and not text.isspace()


def contradictory_texts(dataset: Dataset) -> dict[str, set[str]]:
    """Texts that stand there with more than one label, with those labels, in order of first appearance."""
    labels_of: dict[str, set[str]] = defaultdict(set)
    for text, label in zip(dataset.texts, dataset.labels, strict=True):
        if has_content(text) and has_content(label):
            labels_of[text].add(label)
    return {text: labels for text, labels in labels_of.items() if len(labels) > 1}
