"""Rows of pictures or recordings: from folders of classes, and from files that name paths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from graftwork.data.dataset import Dataset
from graftwork.data.findings import Finding
from graftwork.data.media import PLURALS, Media, Modality, check_one_modality, suffix_modality
from graftwork.data.rows import MAX_PROBLEMS
from graftwork.errors import DataUnreadable, ModalityMismatch, Problem

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Files in which a folder of media says its rows, as Hugging Face's imagefolder and audiofolder have it."""
FILE_NAME = "file_name"
"""Their column of paths."""


def read_media_folder(folder: Path, classes: Sequence[Path]) -> Dataset | None:
    """Read `folder/<class>/*` where these are media files; None when there are none.

    Raises:
        DataUnreadable: if files cannot be read.
        ModalityMismatch: if there are files of several kinds, texts counted too.
    """
    found = [
        (child.name, path)
        for child in classes
        for path in sorted(child.iterdir())
        if path.is_file() and not path.name.startswith(".") and suffix_modality(path)
    ]
    if not found:
        return None
    texts = [path for child in classes for path in sorted(child.glob("*.txt"))]
    if texts:
        raise ModalityMismatch(
            f"{folder}: texts and media files side by side",
            problems=[Problem(str(texts[0]), "is a text"), Problem(str(found[0][1]), "is none")],
            remedy="Put them into folders of their own.",
        )
    paths = [path for _, path in found]
    items = _opened([(str(path), str(path.relative_to(folder)), path) for path in paths], str(folder))
    check_one_modality(items, str(folder))
    rows = tuple(range(1, len(items) + 1))
    return Dataset(tuple(items), tuple(label for label, _ in found), rows, str(folder))


def read_media_files(folder: Path) -> Dataset | None:
    """Every media file in a folder and the folders in it, by path, without labels; None when there are none.

    A note counts the other files. Hidden files and folders are left out.

    Raises:
        DataUnreadable: if files cannot be read.
        ModalityMismatch: if there are pictures and recordings.
    """
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    media = [path for path in paths if suffix_modality(path)]
    if not media:
        return None
    items = _opened([(str(path), str(path.relative_to(folder)), path) for path in media], str(folder))
    modality = check_one_modality(items, str(folder))
    others = [str(path.relative_to(folder)) for path in paths if not suffix_modality(path)]
    notes = (_others_note(others, modality),) if others else ()
    return Dataset(tuple(items), ("",) * len(items), tuple(range(1, len(items) + 1)), str(folder), notes)


def _others_note(others: Sequence[str], modality: Modality) -> Finding:
    return Finding(
        code="other-files",
        severity="info",
        message=f"{len(others):,} files are no {PLURALS[modality]} and were left out",
        count=len(others),
        examples=tuple(others[:3]),
        remedy="Nothing to do, unless they were meant to be some.",
    )


def with_media(rows: Dataset, folder: Path) -> Dataset:
    """Rows whose every text ends like a picture's or a recording's file, with those files in the texts' place.

    Args:
        rows: as they were read.
        folder: what their paths are relative to.

    Raises:
        DataUnreadable: with every file that is not there.
        ModalityMismatch: if pictures and recordings are mixed.
    """
    # Most files of texts are told from the first row.
    if not rows.texts or not all(_names_media(text) for text in rows.texts):
        return rows
    named = [
        (f"{rows.source}, row {row}", text, folder / text) for row, text in zip(rows.rows, rows.texts, strict=True)
    ]
    items = _opened(named, rows.source)
    check_one_modality(items, rows.source)
    return Dataset(tuple(items), rows.labels, rows.rows, rows.source, rows.notes)


def media_file(path: Path, modality: Modality) -> Media:
    """A file that was named by hand, its bytes in memory.

    Raises:
        DataUnreadable: if it cannot be read.
    """
    try:
        return Media.of_bytes(path.read_bytes(), modality, name=str(path))
    except OSError as error:
        raise DataUnreadable(f"{path}: cannot be read: {error.strerror}", remedy="Check the path.") from error


def _names_media(text: str) -> bool:
    return len(text) < 1024 and suffix_modality(Path(text)) is not None


def _opened(named: Sequence[tuple[str, str, Path]], source: str) -> list[Media]:
    """The media of files, each given with its place in the source and its name for messages."""
    items: list[Media] = []
    problems: list[Problem] = []
    for where, name, path in named:
        modality = suffix_modality(path)
        assert modality is not None
        try:
            items.append(Media.of_file(path, modality, name=name))
        except OSError as error:
            told = "" if where == str(path) else f" {path}"
            problems.append(Problem(where, f"cannot be read:{told} {error.strerror}"))
    if problems:
        hidden = len(problems) - MAX_PROBLEMS
        rest = [Problem("", f"and {hidden:,} more")] if hidden > 0 else []
        raise DataUnreadable(
            f"{source}: {len(problems):,} files cannot be read",
            problems=[*problems[:MAX_PROBLEMS], *rest],
            remedy="Paths are relative to the file that names them; mend them or take these rows out.",
        )
    return items
