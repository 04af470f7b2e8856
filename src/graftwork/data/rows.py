"""Where every reader puts its rows: the one place that says what a text and a label may be."""

from __future__ import annotations

import math
from collections.abc import Iterable

from graftwork.data.dataset import Dataset
from graftwork.data.findings import Finding
from graftwork.errors import ColumnsMissing, DataRejected, DataUnreadable, Problem

MAX_TEXT = 1_000_000
"""Characters a text may have: about 200,000 words, far above any encoder's window."""
MAX_LABEL = 200
"""Characters a label may have; longer ones are texts in the wrong column."""
MAX_PROBLEMS = 50
"""Mistakes listed one by one; the rest are counted."""

_LIKELY_TEXT = (
    "text", "sentence", "review", "content", "body", "message", "comment", "tweet", "utterance", "document",
    "description", "question", "query", "title", "headline", "abstract", "summary", "input", "post", "email", "sms",
    "file_name", "image", "audio", "path", "file",
)  # fmt: skip
_LIKELY_LABEL = (
    "label", "category", "class", "target", "sentiment", "intent", "topic", "tag", "genre", "emotion", "rating",
    "stars", "polarity", "type", "output", "y", "labels",
)  # fmt: skip


class RowCollector:
    """Takes rows one by one, remembers every mistake, and becomes a Dataset when there was none.

    Args:
        source: the file or object, for messages.
        text: name of the text column.
        label: name of the label column; None when there is none: every label is empty then.
        encoding: the encoding the source was read in, named where a byte was broken.

    Example:
        >>> rows = RowCollector("reviews.csv", text="text", label="label")
        >>> rows.add(2, "it works", 1)
        >>> rows.finish().labels
        ('1',)
    """

    def __init__(self, source: str, *, text: str, label: str | None, encoding: str = "utf-8") -> None:
        self.source = source
        self.columns = {"text": text, "label": label or ""}
        self.encoding = encoding
        self._texts: list[str] = []
        self._labels: list[str] = []
        self._rows: list[int] = []
        self._numbers: list[tuple[int, str]] = []
        self._problems: list[Problem] = []
        self._count = 0
        self._unreadable = False
        self._bytes_broken = False
        self._notes: list[Finding] = []

    def add(self, row: int, text: object, label: object, *, where: str | None = None) -> None:
        """Take one row; None is an empty text or label, which the check of the rows reports.

        Args:
            row: its number, from 1, as an editor shows it.
            text: the text as it was read.
            label: the label as it was read; whole numbers and booleans become strings.
            where: names the row in messages, where "row 7" does not.
        """
        where = where or f"{self.source}, row {row}"
        text_where = f"{where}, column {self.columns['text']!r}"
        label_where = f"{where}, column {self.columns['label']!r}"
        if text is None:
            text = ""
        if not isinstance(text, str):
            self.problem(text_where, f"holds {_named(text)} where a text should be")
        else:
            self._judge(text_where, text, MAX_TEXT, "a text")
        name = self._label_name(row, label_where, label)
        if name is not None:
            self._judge(label_where, name, MAX_LABEL, "a label (is this the right column?)")
        if isinstance(text, str) and name is not None and not self._count:
            self._texts.append(text)
            self._labels.append(name)
            self._rows.append(row)

    def problem(self, where: str, what: str, *, unreadable: bool = True) -> None:
        """Remember a mistake; `unreadable` when the file is at fault rather than what it says."""
        self._count += 1
        self._unreadable |= unreadable
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(Problem(where, what))

    def note(self, finding: Finding) -> None:
        """Remember what the reader decided by itself."""
        self._notes.append(finding)

    def finish(self) -> Dataset:
        """The rows as a Dataset.

        Raises:
            DataUnreadable: some rows could not be read, or there is no row at all.
            DataRejected: all could be read, but some hold what cannot be a text or a label.
        """
        if self._count:
            kind = DataUnreadable if self._unreadable else DataRejected
            hidden = self._count - len(self._problems)
            rest = [Problem("", f"and {hidden:,} more")] if hidden else []
            mistakes = "1 mistake" if self._count == 1 else f"{self._count:,} mistakes"
            remedy = "Mend these rows, or take them out; nothing was read."
            if self._bytes_broken:
                remedy += " If the file is in another encoding, say which (encoding=…), or save it as UTF-8."
            raise kind(f"{self.source}: {mistakes} in the rows", problems=[*self._problems, *rest], remedy=remedy)
        if not self._texts:
            raise DataUnreadable(
                f"{self.source}: there are no rows, at most a header",
                remedy="Give at least two classes with a few rows each."
                if self.columns["label"]
                else "Give a file with rows.",
            )
        if self._numbers:
            self.note(_numbers_note(self._numbers))
        return Dataset(
            tuple(self._texts), tuple(self._labels), tuple(self._rows), source=self.source, notes=tuple(self._notes)
        )

    def _label_name(self, row: int, where: str, label: object) -> str | None:
        if label is None or (isinstance(label, float) and math.isnan(label)):
            return ""
        if isinstance(label, str):
            return label
        if isinstance(label, float) and not label.is_integer():
            self.problem(where, f"is {label}: a number with a fraction is no class", unreadable=False)
            return None
        if isinstance(label, (bool, int, float)):
            name = str(label).lower() if isinstance(label, bool) else str(int(label))
            self._numbers.append((row, name))
            return name
        self.problem(where, f"holds {_named(label)} where a label should be")
        return None

    def _judge(self, where: str, value: str, limit: int, what: str) -> None:
        if len(value) > limit:
            self.problem(where, f"{len(value):,} characters; {what} may have {limit:,}", unreadable=False)
        if "\x00" in value:
            self.problem(where, f"a NUL byte at character {value.index(chr(0)) + 1}")
        if not value.isascii():
            self._judge_surrogates(where, value)

    def _judge_surrogates(self, where: str, value: str) -> None:
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            code = ord(value[error.start])
            if 0xDC80 <= code <= 0xDCFF:
                self._bytes_broken = True
                what = f"invalid {self.encoding}: byte 0x{code - 0xDC00:02x} at character {error.start + 1}"
            else:
                what = f"half a character (lone surrogate U+{code:04X}) at character {error.start + 1}"
            self.problem(where, what)


def require_columns(names: Iterable[object], *, text: str, label: str | None, source: str) -> None:
    """Refuse a source that lacks one of the two columns, or has one twice.

    Raises:
        ColumnsMissing: listing both mistakes, what columns there are, and which of them look like the ones meant.
    """
    present = ["" if name is None else str(name) for name in names]
    problems, hints = [], []
    for role, wanted, likely in (("text", text, _LIKELY_TEXT), ("label", label, _LIKELY_LABEL)):
        if wanted is None:
            continue
        count = present.count(wanted)
        if count > 1:
            problems.append(Problem(f"column {wanted!r}", f"is there {count} times"))
        elif count == 0:
            problems.append(Problem(f"column {wanted!r}", f"is missing; it should hold the {role}s"))
            other = label if role == "text" else text
            if guess := _likely(wanted, likely, [name for name in present if name != other]):
                hints.append((role, guess))
    if text == label:
        problems.append(Problem(f"column {text!r}", "is named for both the texts and the labels"))
    if not problems:
        return
    if hints:
        said = ", ".join(f"{role}={guess!r}" for role, guess in hints)
        flags = " ".join(f"--{role} {_quoted(guess)}" for role, guess in hints)
        remedy = f"If these are the columns, say so: {said} (on the command line {flags})."
    else:
        remedy = "The first row must name the columns; say which to take with text=… and label=… (--text, --label)."
    shown = ", ".join(repr(name[:40]) for name in present[:20]) or "none"
    more = f" and {len(present) - 20} more" if len(present) > 20 else ""
    raise ColumnsMissing(f"{source}: the columns are {shown}{more}", problems=problems, remedy=remedy)


def _likely(wanted: str, likely: tuple[str, ...], present: list[str]) -> str | None:
    plain = {name.strip().casefold(): name for name in reversed(present)}
    return next((plain[word] for word in (wanted.strip().casefold(), *likely) if word in plain), None)


def _quoted(name: str) -> str:
    return name if name.isidentifier() else f"'{name}'"


def _named(value: object) -> str:
    kinds = {int: "a number", float: "a number", bool: "a boolean", list: "a list", dict: "an object"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _numbers_note(numbers: list[tuple[int, str]]) -> Finding:
    return Finding(
        code="labels-numbers",
        severity="info",
        message=f"{len(numbers):,} labels are numbers or booleans and were taken as names",
        count=len(numbers),
        rows=tuple(row for row, _ in numbers[:5]),
        examples=tuple(dict.fromkeys(name for _, name in numbers))[:5],
        remedy="If names exist for them, use the names: answers will show them.",
    )
