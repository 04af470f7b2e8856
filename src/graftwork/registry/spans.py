"""Parts of local files as sources of bytes that need not fit into memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from graftwork.errors import StorageError
from graftwork.registry.durable import storage_error

CHUNK = 4 * 1024 * 1024
_QUIET = "Try again when nothing else writes to it."


class Hash(Protocol):
    """What `hashlib` makes."""

    def update(self, data: bytes, /) -> None:
        """Go on with `data`."""


@dataclass(frozen=True, slots=True)
class FileSpan:
    """Part of a local file.

    Attributes:
        path: the file.
        offset: first byte.
        length: number of bytes.
    """

    path: Path
    offset: int
    length: int

    @classmethod
    def of(cls, path: Path) -> FileSpan:
        """The whole of a file, as long as it is now.

        Raises:
            StorageError: if there is no such file.
        """
        try:
            return cls(path, 0, path.stat().st_size)
        except OSError as error:
            raise storage_error(f"{path} cannot be read", error) from error

    def chunks(self) -> Iterator[bytes]:
        """Its bytes, some megabytes at a time.

        Raises:
            StorageError: if the file cannot be read or has become shorter.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                left = self.length
                while left:
                    chunk = file.read(min(CHUNK, left))
                    if not chunk:
                        raise StorageError(f"{self.path} was cut short while it was read", remedy=_QUIET)
                    left -= len(chunk)
                    yield chunk
        except OSError as error:
            raise storage_error(f"{self.path} cannot be read", error) from error


def measure(source: bytes | FileSpan, *, running: Hash | None = None) -> str:
    """SHA-256 of `source`, in hexadecimal.

    Args:
        source: what to read.
        running: a hash that goes on with these bytes, such as that of the whole file `source` is a part of.
    """
    hasher = hashlib.sha256()
    for chunk in (source,) if isinstance(source, bytes) else source.chunks():
        hasher.update(chunk)
        if running is not None:
            running.update(chunk)
    return hasher.hexdigest()


def compared(source: bytes | FileSpan, digest: str) -> Iterator[bytes]:
    """The chunks of `source` once more.

    Raises:
        StorageError: after the last of them, if they are no longer those of `digest`.
    """
    if isinstance(source, bytes):
        yield source
        return
    hasher = hashlib.sha256()
    for chunk in source.chunks():
        hasher.update(chunk)
        yield chunk
    if hasher.hexdigest() != digest:
        raise StorageError(f"{source.path} changed while it was read", remedy=_QUIET)
