"""Checks of training rows against test rows: what was learned by heart says nothing about quality."""

from __future__ import annotations

from graftwork.data.clean import has_content
from graftwork.data.dataset import Dataset
from graftwork.data.findings import Finding
from graftwork.data.rowchecks import check_rows, finding, rows_phrase
from graftwork.data.similar import near_duplicate_groups


def check_near_duplicates(usable: Dataset) -> list[Finding]:
    """Say how many rows are nearly the same as another; splits keep them together."""
    groups = near_duplicate_groups(usable.texts).tolist()
    first: dict[int, int] = {}
    later = [i for i, group in enumerate(groups) if first.setdefault(group, i) != i]
    if not later:
        return []
    message = f"{rows_phrase(len(later))} nearly the same as an earlier one"
    remedy = "Nothing to do: they are kept, and never stand on both sides of a split."
    return [finding("near-duplicates", "info", message, usable, later, remedy=remedy)]


def check_test(dataset: Dataset, test: Dataset) -> list[Finding]:
    """Findings about a test set: its own rows, its labels, and what it shares with the training rows.

    Row numbers are those of the test set.
    """
    own = [
        found.model_copy(
            update={
                "code": f"test-{found.code}",
                "message": f"test set: {found.message}",
                "remedy": "Mend the test set: these rows are judged as they are.",
            }
        )
        for found in (*test.notes, *check_rows(test))
    ]
    return [*own, *_labels(dataset, test), *_shared(dataset, test)]


def _labels(dataset: Dataset, test: Dataset) -> list[Finding]:
    known = set(dataset.labels)
    strange = [i for i, label in enumerate(test.labels) if label not in known and has_content(label)]
    absent = sorted(name for name in known - set(test.labels) if has_content(name))
    found = []
    if strange:
        names = sorted({test.labels[i] for i in strange})
        message = f"test set: {rows_phrase(len(strange))} with labels that no training row has"
        remedy = "Spell the labels alike in both files, or leave these rows out."
        told = finding("test-unknown-labels", "error", message, test, strange, remedy=remedy, examples=names)
        shown = ", ".join(map(repr, told.examples)) + (", …" if len(names) > len(told.examples) else "")
        found.append(told.model_copy(update={"message": f"{message}: {shown}"}))
    if absent:
        message = f"test set: no rows of {len(absent):,} of the {len(known):,} classes"
        remedy = "These classes will not be judged; add rows of them."
        found.append(
            finding(
                "test-missing-classes",
                "warning",
                message,
                test,
                (),
                remedy=remedy,
                count=len(absent),
                examples=absent,
            )
        )
    return found


def _shared(dataset: Dataset, test: Dataset) -> list[Finding]:
    trained = {text for text in dataset.texts if has_content(text)}
    same = [i for i, text in enumerate(test.texts) if text in trained]
    found = []
    if same:
        message = f"test set: {rows_phrase(len(same))} ({len(same) / len(test):.1%}) found in the training set too"
        remedy = "They are taken out of the training rows; better take them out of one file."
        found.append(finding("test-overlap", "warning", message, test, same, remedy=remedy))
    rest = [i for i, text in enumerate(test.texts) if has_content(text) and text not in trained]
    texts = [*_distinct_texts(dataset), *(test.texts[i] for i in rest)]
    groups = near_duplicate_groups(texts).tolist()
    seen = set(groups[: len(texts) - len(rest)])
    near = [i for i, group in zip(rest, groups[len(texts) - len(rest) :], strict=True) if group in seen]
    if near:
        message = f"test set: {rows_phrase(len(near))} ({len(near) / len(test):.1%}) nearly the same as training rows"
        remedy = "Scores on these are too good; take them out of one of the files to judge honestly."
        found.append(finding("test-near-duplicates", "warning", message, test, near, remedy=remedy))
    return found


def _distinct_texts(dataset: Dataset) -> list[str]:
    """The distinct texts with content, in order of first appearance."""
    return [text for text in dict.fromkeys(dataset.texts) if has_content(text)]
