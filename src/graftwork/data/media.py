"""Pictures and recordings, standing where a text stands.

Everything that handles inputs (rows, duplicates, digests, queues, caches) asks only whether two of them are the same. A
text is the same when its characters are; media are when their bytes are. So an item of media is a string that spells
the digest of its bytes, and carries where the bytes are. docs/decisions/0083-modalities.md has the reasons.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from graftwork.errors import DataRejected, DataUnreadable, ModalityMismatch, Problem

Modality = Literal["text", "image", "audio"]

SUFFIXES: dict[Modality, tuple[str, ...]] = {
    "image": (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff"),
    "audio": (".wav", ".flac", ".ogg", ".mp3"),
}
"""Endings of files by what they hold."""
MAX_BYTES = 64 * 2**20
"""Bytes of a file that is decoded."""


class Media(str):
    """An image or a recording, known by the SHA-256 of its bytes.

    Attributes:
        modality: what it is.
        name: what messages call it: its path as it was given.
        facts: what was found out by looking at it, by the name of who looked; it is looked at once.

    Example:
        >>> one, same = Media.of_bytes(b"...", "image", name="a.png"), Media.of_bytes(b"...", "image", name="b.png")
        >>> one == same, one.name
        (True, 'a.png')
    """

    __slots__ = ("_data", "facts", "modality", "name")

    modality: Modality
    name: str
    facts: dict[str, Any]
    _data: bytes | Path

    def __new__(cls, identity: str, modality: Modality, name: str, data: bytes | Path) -> Self:
        """Only `of_file` and `of_bytes` know what to give."""
        made = super().__new__(cls, identity)
        made.modality, made.name, made._data, made.facts = modality, name, data, {}
        return made

    def __getnewargs__(self) -> tuple[str, Modality, str, bytes | Path]:  # type: ignore[override]
        """What a copy in another process is made from."""
        return str(self), self.modality, self.name, self._data

    @classmethod
    def of_bytes(cls, data: bytes, modality: Modality, *, name: str = "") -> Media:
        """What was given as the bytes of a file."""
        return cls(_identity(data, modality), modality, name or f"{len(data):,} bytes", data)

    @classmethod
    def of_file(cls, path: Path, modality: Modality, *, name: str = "") -> Media:
        """What is in a file. It is read twice, now to know it and later to use it, and not kept in memory.

        Raises:
            OSError: if it cannot be read.
        """
        return cls(_identity(path.read_bytes(), modality), modality, name or str(path), path)

    @property
    def in_memory(self) -> bool:
        """Whether it holds its bytes itself, and does not read them from a file."""
        return isinstance(self._data, bytes)

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            DataUnreadable: if the file has gone, or holds something else by now.
        """
        if isinstance(self._data, bytes):
            return self._data
        try:
            data = self._data.read_bytes()
        except OSError as error:
            raise DataUnreadable(
                f"{self.name}: {error.strerror}", remedy="Leave the files be while they are used."
            ) from error
        if _identity(data, self.modality) != self:
            raise DataUnreadable(
                f"{self.name}: the file was changed while it was used", remedy="Run the command again."
            )
        return data


def modality_of(item: str) -> Modality:
    """What an input is."""
    return item.modality if isinstance(item, Media) else "text"


def shown(item: str) -> str:
    """An input as messages show it: the text itself, or what media are called."""
    return item.name if isinstance(item, Media) else item


def bytes_to_decode(media: Media, *, too_large: str) -> bytes:
    """The bytes of a file that can be given to a decoder.

    Args:
        media: what to read.
        too_large: the remedy for a file that is larger than `MAX_BYTES`.

    Raises:
        DataRejected: if it is empty or too large.
        DataUnreadable: if its file has gone or changed.
    """
    data = media.read()
    if not data:
        raise refused(media, "is empty", "Leave it out.")
    if len(data) > MAX_BYTES:
        raise refused(media, f"has {len(data):,} bytes; at most {MAX_BYTES:,} are read", too_large)
    return data


def refused(media: Media, what: str, remedy: str) -> DataRejected:
    """The error that tells what is wrong with a file."""
    return DataRejected(f"{media.name}: {what}", remedy=remedy)


def suffix_modality(path: Path) -> Modality | None:
    """What a file holds by its ending; None for an ending of no media."""
    return next((kind for kind, endings in SUFFIXES.items() if path.suffix.lower() in endings), None)


def check_modality(items: Iterable[str], wanted: Modality, *, reads: str) -> None:
    """Refuse inputs of another kind than a model reads.

    Args:
        items: the inputs.
        wanted: what the model reads.
        reads: the model, as the message calls it.

    Raises:
        ModalityMismatch: with each input that is of another kind.
    """
    problems = [
        Problem(f"input {number}", f"is {_NOUNS[modality_of(item)]}{_called(item)}")
        for number, item in enumerate(items, start=1)
        if modality_of(item) != wanted
    ]
    if problems:
        hidden = [Problem("", f"and {len(problems) - 20:,} more")] if len(problems) > 20 else []
        raise ModalityMismatch(
            f"{reads} reads {PLURALS[wanted]}",
            problems=[*problems[:20], *hidden],
            remedy=f"Give {PLURALS[wanted]}, or choose a base model of the domain of what you have: "
            "`graft base list` shows the domains.",
        )


def check_one_modality(items: Sequence[str], source: str) -> Modality:
    """The one kind that all inputs are; text when there are none.

    Raises:
        ModalityMismatch: if they are of several.
    """
    if not items:
        return "text"
    check_modality(items, modality_of(items[0]), reads=f"{source}: one data set")
    return modality_of(items[0])


_NOUNS: dict[Modality, str] = {"text": "a text", "image": "an image", "audio": "a recording"}
PLURALS: dict[Modality, str] = {"text": "texts", "image": "images", "audio": "recordings"}
"""What messages call several inputs."""


def _called(item: str) -> str:
    return f" ({item.name})" if isinstance(item, Media) else ""


def _identity(data: bytes, modality: Modality) -> str:
    # No text begins so: a NUL is refused in requests and has no place in files of rows.
    return f"\x00{modality}:{hashlib.sha256(data).hexdigest()}"
