"""A folder with one subfolder per class, one file a row: texts, or pictures or recordings."""

from __future__ import annotations

from pathlib import Path

from graftwork.data.dataset import Dataset
from graftwork.data.encoding import decode, detect_encoding
from graftwork.data.findings import Finding
from graftwork.data.mediarows import read_media_folder
from graftwork.data.rows import RowCollector
from graftwork.errors import DataUnreadable


def read_folder(folder: Path, *, encoding: str | None) -> Dataset:
    """Read `folder/<class>/*.txt`, or media files in their place; rows count from 1 over classes and files by name.

    Files that are not UTF-8 are judged together, so that one short file does not decide its encoding alone.

    Raises:
        DataUnreadable: no subfolder with such files, or files that cannot be read; all listed.
        ModalityMismatch: texts and media, or several kinds of media, side by side.
        DataRejected: texts over the limit.
    """
    classes = sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    media = read_media_folder(folder, classes)
    if media is not None:
        return media
    files = [(child.name, path) for child in classes for path in sorted(child.glob("*.txt")) if path.is_file()]
    if not files:
        raise DataUnreadable(
            f"{folder}: no class folders with .txt files, pictures or recordings",
            remedy="Put each in a file of its own: <folder>/<class>/<anything>.txt, .png, .jpg, .wav ...",
        )
    content = {path: path.read_bytes() for _, path in files}
    fallback = encoding or _shared_fallback(list(content.values()))
    collector = RowCollector(str(folder), text="text", label="label")
    for row, (label, path) in enumerate(files, start=1):
        raw = content[path]
        said = fallback if encoding or not _is_utf8(raw) else None
        decoded = decode(raw, encoding=said, source=str(path))
        collector.encoding = decoded.encoding
        collector.add(row, decoded.text, label, where=str(path))
    if fallback and not encoding:
        odd = [str(path.relative_to(folder)) for _, path in files if not _is_utf8(content[path])]
        collector.note(
            Finding(
                code="encoding-detected",
                severity="warning",
                message=f"{len(odd):,} files are not UTF-8; read as {fallback}, which was detected",
                count=len(odd),
                examples=tuple(odd[:3]),
                remedy="If letters are wrong, say the encoding the files were saved in, or save them as UTF-8.",
            )
        )
    return collector.finish()


def _shared_fallback(contents: list[bytes]) -> str | None:
    odd = [raw for raw in contents if not _is_utf8(raw) and not raw.startswith((b"\xff\xfe", b"\xfe\xff"))]
    return detect_encoding(b"\n".join(odd)) if odd else None


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
