"""`graft evaluate --by`: which slice each row belongs to, and what the tokenizer does not know of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graftwork.data.dataset import Dataset
    from graftwork.data.tokens import TextTokenizer

DETECTED = "language"
_NONE = "(none)"


def slice_names(
    file: Path, rows: Dataset, *, by: str, text: str, encoding: str | None, delimiter: str | None
) -> list[str]:
    """The slice of each row, by a column of the file, or by the language that is detected where it has no such column.

    Args:
        file: where the rows were read from.
        rows: those that are judged.
        by: the column.
        text: column of the texts.
        encoding: of the file.
        delimiter: of the file.

    Raises:
        ColumnsMissing: if there is no such column.
        DependencyMissing: if languages have to be detected and the detector is not installed.
        DataUnreadable: if it is a folder, which has no columns.
    """
    from graftwork.data.read import read_dataset
    from graftwork.errors import ColumnsMissing

    if file.is_dir() and by == DETECTED:
        return detected_languages(rows.texts)
    _refuse_folder(file, by)
    try:
        column = read_dataset(file, text=text, label=by, encoding=encoding, delimiter=delimiter)
    except ColumnsMissing:
        if by != DETECTED:
            raise
        return detected_languages(rows.texts)
    names = dict(zip(column.rows, column.labels, strict=True))
    return [names[row] or _NONE for row in rows.rows]


def _refuse_folder(file: Path, by: str) -> None:
    from graftwork.errors import DataUnreadable

    if file.is_dir():
        raise DataUnreadable(
            f"{file}: a folder has no column {by!r}",
            remedy=f"Give a file with that column, or --by {DETECTED}, which is detected.",
        )


def detected_languages(texts: Sequence[str]) -> list[str]:
    """The language of each text; where the detector is not sure, its script.

    Raises:
        DependencyMissing: if the detector is not installed.
    """
    from graftwork.data.languages import detect_languages, script_of
    from graftwork.errors import DependencyMissing

    languages = detect_languages(texts)
    if languages is None:
        raise DependencyMissing(
            f"there is no column {DETECTED!r}, and nothing to detect languages with",
            remedy="pip install 'graftwork[languages]', or name a column with --by.",
        )
    return [
        language or f"not sure ({script_of(text) or 'no letters'})"
        for text, language in zip(texts, languages, strict=True)
    ]


def unknown_tokens(tokenizer: TextTokenizer, texts: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """Share of the tokens of each slice that the base's tokenizer does not know."""
    unknown: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for name, count in zip(names, tokenizer.measure(texts), strict=True):
        unknown[name] += count.unknown
        tokens[name] += count.tokens
    return {name: unknown[name] / tokens[name] if tokens[name] else 0.0 for name in tokens}
