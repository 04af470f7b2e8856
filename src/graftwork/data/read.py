"""Read labelled texts, pictures and recordings from files and objects of every supported kind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from graftwork.data.dataset import Dataset
from graftwork.data.mediarows import FILE_NAME, METADATA, with_media
from graftwork.errors import DataUnreadable

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")


def read_dataset(
    source: str | os.PathLike[str] | Any,
    *,
    text: str = "text",
    label: str = "label",
    encoding: str | None = None,
    delimiter: str | None = None,
) -> Dataset:
    """Read labelled texts, or media files that stand in their place.

    A column whose every value ends like a picture's or a recording's file (.png, .wav ...) is one of paths, relative to
    the file that names them.

    Args:
        source: a path to .csv, .tsv, .jsonl, .ndjson, .json or .parquet; a folder with one subfolder of .txt or media
            files per class; a folder with a metadata.csv that has the column file_name; a Hugging Face
            `datasets.Dataset`; a pandas `DataFrame`.
        text: name of the column that holds the texts, or the paths of media files.
        label: name of the column that holds the labels; whole numbers and booleans become strings.
        encoding: the files' encoding; detected when it is not said.
        delimiter: of a .csv or .tsv: one character, or comma, semicolon, tab, pipe; found when it is not said.

    Returns:
        The rows as they are, markup and formulas included. Rows without a text are kept: `check_dataset` reports and
        `clean_dataset` drops them.

    Raises:
        DataUnreadable: missing, empty, of an unsupported kind, or broken; every broken row is listed.
        ColumnsMissing: no such columns; the remedy names columns that look like the ones meant.
        ModalityMismatch: texts, pictures and recordings mixed.
        DataRejected: texts over 1,000,000 characters, labels that are no names.
        DependencyMissing: the package that reads this kind of file is not installed.

    Example:
        >>> read_dataset("reviews.csv", text="review", label="stars")  # doctest: +SKIP
    """
    from graftwork.data import columns

    if columns.is_hugging_face(source):
        return columns.read_hugging_face(source, text=text, label=label)
    if columns.is_pandas(source):
        return columns.read_pandas(source, text=text, label=label)
    if not isinstance(source, (str, os.PathLike)):
        raise DataUnreadable(
            f"a {type(source).__name__} cannot be read",
            remedy="Give a path, a datasets.Dataset or a pandas DataFrame; lists go through Dataset.from_lists.",
        )
    path = Path(source)
    return read_path(path, text=text, label=label, encoding=encoding, delimiter=delimiter)


def read_path(
    path: Path, *, text: str, label: str | None, encoding: str | None = None, delimiter: str | None = None
) -> Dataset:
    """The same for a path; without a label column every label is empty."""
    try:
        if path.is_dir() and (named := next((path / name for name in METADATA if (path / name).is_file()), None)):
            path, text = named, FILE_NAME if text == "text" else text
        rows = _read_path(path, text=text, label=label, encoding=encoding, delimiter=delimiter)
        return with_media(rows, path.parent)
    except OSError as error:
        raise DataUnreadable(
            f"{path}: cannot be read: {error.strerror or error}", remedy="Check the path and that you may read it."
        ) from error


def _read_path(path: Path, *, text: str, label: str | None, encoding: str | None, delimiter: str | None) -> Dataset:
    if path.is_dir():
        from graftwork.data.folder import read_folder

        return read_folder(path, encoding=encoding)
    if not path.exists():
        raise DataUnreadable(f"{path}: there is no such file", remedy="Check the path.")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        shown = f"files ending in {suffix}" if suffix else "files without a suffix"
        raise DataUnreadable(
            f"{path}: {shown} are not supported",
            remedy=f"Save it as one of {', '.join(SUFFIXES)}; from a spreadsheet, as CSV in UTF-8.",
        )
    if path.stat().st_size == 0:
        raise DataUnreadable(f"{path}: the file is empty", remedy="Give a file with a header and labelled rows.")
    if suffix == ".parquet":
        from graftwork.data.columns import read_parquet

        return read_parquet(path, text=text, label=label)
    from graftwork.data.encoding import decode

    decoded = decode(path.read_bytes(), encoding=encoding, source=str(path))
    if suffix in (".csv", ".tsv"):
        from graftwork.data.delimited import read_delimited

        prefer = "\t" if suffix == ".tsv" else ","
        return read_delimited(decoded, source=str(path), text=text, label=label, delimiter=delimiter, prefer=prefer)
    from graftwork.data.jsonrows import read_json

    return read_json(decoded, source=str(path), text=text, label=label)
