"""Rows without labels, of the domain that a classifier is adapted to: texts, pictures or recordings."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from graftwork.data.clean import has_content, unreadable
from graftwork.data.dataset import Dataset
from graftwork.data.findings import Finding
from graftwork.data.languages import detect_languages, script_of
from graftwork.data.media import PLURALS, shown
from graftwork.data.mediarows import METADATA, read_media_files, with_media
from graftwork.data.read import read_path
from graftwork.data.rowchecks import finding, rows_phrase
from graftwork.data.rows import MAX_PROBLEMS
from graftwork.errors import DataRejected, DataUnreadable, ModalityMismatch, Problem

FEWEST = 20
"""Usable rows below which nothing can be said of a domain."""
_MOST_OF = 0.5
_SURE_OF = 10  # texts of which it is known, below which nothing is said of all


def read_unlabelled(
    source: str | os.PathLike[str], *, text: str = "text", encoding: str | None = None, delimiter: str | None = None
) -> Dataset:
    """Read texts or media; labels that may stand beside them are not looked at.

    Args:
        source: a path to .csv, .tsv, .jsonl, .ndjson, .json or .parquet, a folder as `read_dataset` takes it, any
            folder with pictures or recordings in it, or a .txt with one text, or one path of a media file, a line.
        text: name of the column that holds the texts, or the paths of media files.
        encoding: the file's encoding; detected when it is not said.
        delimiter: of a .csv or .tsv; found when it is not said.

    Returns:
        The rows, every label empty.

    Raises:
        DataUnreadable: missing, empty, of an unsupported kind, or broken; every broken row is listed.
        ColumnsMissing: no such column.
        ModalityMismatch: texts, pictures and recordings mixed.
        DataRejected: texts over 1,000,000 characters.
    """
    path = Path(source)
    if path.suffix.lower() == ".txt" and path.is_file():
        return with_media(_read_lines(path, encoding=encoding), path.parent)
    if path.is_dir() and not any((path / name).is_file() for name in METADATA):
        media = _read_folder(path)
        if media is not None:
            return media
    read = read_path(path, text=text, label=None, encoding=encoding, delimiter=delimiter)
    return replace(read, labels=("",) * len(read))


def unlabelled(texts: Sequence[str], source: str = "memory") -> Dataset:
    """Rows without labels from a list of texts; rows count from 1."""
    return Dataset.from_lists(texts, [""] * len(texts), source=source)


def usable_rows(target: Dataset, source: Dataset, test: Dataset | None = None) -> tuple[Dataset, list[Finding]]:
    """Drop what says nothing of the target domain, and tell it.

    Dropped are rows without a text, repeats, texts that stand among the labelled rows, and texts that are judged on.
    Media are the same when their bytes are, whatever their files are called.

    Args:
        target: unlabelled rows as they were read.
        source: the labelled rows.
        test: rows to judge on.

    Returns:
        The rows that stay, and what was found.

    Raises:
        ModalityMismatch: if they are of another kind than the labelled rows.
        DataRejected: if fewer than 20 stay, files of media cannot be used (all are named), or texts are in another
            script than the labelled ones.
    """
    _refuse_other_kind(target, source)
    _refuse_unreadable(target)
    labelled, judged = set(source.texts), set(test.texts) if test is not None else set[str]()
    dropped: dict[str, list[int]] = {"empty": [], "labelled": [], "judged": [], "repeated": []}
    seen: set[str] = set()
    kept = []
    for index, text in enumerate(target.texts):
        why = _why_dropped(text, labelled, judged, seen)
        if why:
            dropped[why].append(index)
        else:
            seen.add(text)
            kept.append(index)
    found = [*target.notes, *(_told(why, target, rows) for why, rows in dropped.items() if rows)]
    if len(kept) < FEWEST:
        reasons = "; ".join(one.message for one in found if one.code.startswith("unlabelled-")) or "nothing was dropped"
        raise DataRejected(
            f"{target.source}: {rows_phrase(len(kept))} of {len(target):,} are usable, too few to adapt to ({reasons})",
            remedy=f"Give at least {FEWEST} different {PLURALS[source.modality]} of the target domain that are not "
            "among the labelled ones.",
        )
    usable = target.select(kept)
    return usable, [*found, *(_other_language(usable, source) if usable.modality == "text" else ())]


def as_line(found: Finding) -> str:
    """A finding in one line; files that were skipped are named."""
    names = f" ({'; '.join(found.examples)})" if found.code in ("skipped-media", "other-files") else ""
    return f"{found.severity}: {found.message}{names}. {found.remedy}"


def _read_folder(folder: Path) -> Dataset | None:
    try:
        return read_media_files(folder)
    except OSError as error:
        raise DataUnreadable(
            f"{folder}: cannot be read: {error.strerror or error}", remedy="Check the path and that you may read it."
        ) from error


def _refuse_other_kind(target: Dataset, source: Dataset) -> None:
    if len(target) and target.modality != source.modality:
        raise ModalityMismatch(
            f"{target.source} holds {PLURALS[target.modality]}, and {source.source} {PLURALS[source.modality]}",
            remedy=f"Adapt to {PLURALS[source.modality]}: what a base model reads cannot be changed by adapting.",
        )


def _refuse_unreadable(target: Dataset) -> None:
    wrong = [Problem(shown(target.texts[i]), why) for i, why in unreadable(target).items()]
    if wrong:
        hidden = [Problem("", f"and {len(wrong) - MAX_PROBLEMS:,} more")] if len(wrong) > MAX_PROBLEMS else []
        raise DataRejected(
            f"{target.source}: {len(wrong):,} of {len(target):,} files cannot be used",
            problems=[*wrong[:MAX_PROBLEMS], *hidden],
            remedy="Mend them or take them out; --skip-bad goes on without them.",
        )


def _read_lines(path: Path, *, encoding: str | None) -> Dataset:
    from graftwork.data.encoding import decode
    from graftwork.data.rows import RowCollector

    decoded = decode(path.read_bytes(), encoding=encoding, source=str(path))
    collector = RowCollector(str(path), text="text", label=None, encoding=decoded.encoding)
    for row, line in enumerate(decoded.text.split("\n"), start=1):
        if has_content(line):
            collector.add(row, line.rstrip("\r"), None)
    return collector.finish()


def _why_dropped(text: str, labelled: set[str], judged: set[str], seen: set[str]) -> str:
    if not has_content(text):
        return "empty"
    if text in labelled:
        return "labelled"
    if text in judged:
        return "judged"
    return "repeated" if text in seen else ""


_TOLD = {
    "empty": ("without a text", "They are left out."),
    "labelled": (
        "also stand in the labelled file",
        "They are left out: they are of the source. Give rows of the target domain alone.",
    ),
    "judged": (
        "also stand among the test rows",
        "They are left out: what is judged on must not be trained on, not even without its label.",
    ),
    "repeated": ("repeat an earlier one", "The first of each is kept."),
}


def _told(why: str, target: Dataset, rows: list[int]) -> Finding:
    what, remedy = _TOLD[why]
    severity = "info" if why in ("empty", "repeated") else "warning"
    alike = "" if target.modality == "text" or why == "empty" else ", by the bytes of their files"
    message = f"unlabelled rows: {rows_phrase(len(rows))} {what}{alike}"
    return finding(f"unlabelled-{why}", severity, message, target, rows, remedy=remedy)  # type: ignore[arg-type]


def _other_language(target: Dataset, source: Dataset) -> list[Finding]:
    """Refuse another script; warn of another language, of which the detector may be wrong."""
    scripts = [_most_common([script_of(text) for text in rows.texts]) for rows in (target, source)]
    if None not in scripts and scripts[0] != scripts[1]:
        raise DataRejected(
            f"{target.source}: most texts are in {scripts[0]} script, those of {source.source} in {scripts[1]}",
            remedy="Adapt to rows of the same language; across languages take a multilingual base and label some rows.",
        )
    detected = [detect_languages(rows.texts) for rows in (target, source)]
    languages = [None if each is None else _most_common(each) for each in detected]
    if None in languages or languages[0] == languages[1]:
        return []
    theirs = [index for index, language in enumerate(detected[0] or ()) if language == languages[0]]
    message = f"unlabelled rows: most are in another language ({languages[0]}) than the labelled rows ({languages[1]})"
    remedy = "Adapting across languages seldom helps on an English base: take a multilingual one, or label some rows."
    return [finding("unlabelled-language", "warning", message, target, theirs, remedy=remedy)]


def _most_common(kinds: Sequence[str | None]) -> str | None:
    """What at least half of those of which it is known are; None where too few are known."""
    counts = Counter(kind for kind in kinds if kind is not None)
    if counts.total() < _SURE_OF:
        return None
    kind, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
    return kind if count >= _MOST_OF * counts.total() else None
