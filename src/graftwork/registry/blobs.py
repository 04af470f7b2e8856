"""Bytes by digest, in a local folder or an object store."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from graftwork.errors import BlobDamaged, SettingsInvalid, StorageError
from graftwork.registry.durable import is_abandoned, storage_error, sync, write_file
from graftwork.registry.spans import CHUNK, FileSpan, compared, measure

if TYPE_CHECKING:
    from obstore.store import ObjectStore

STRANGER_AGE = timedelta(days=1)
"""A temporary file whose owner cannot be asked is taken for abandoned after this long."""

_BLOB = re.compile(r"sha256/([0-9a-f]{2})/([0-9a-f]{62})")
_STAGING, _QUARANTINE = "staging", "quarantine"


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """What `put` did.

    Attributes:
        digest: SHA-256 of the bytes, in hexadecimal.
        size: number of bytes.
        created: False when the store held a blob of that digest already.
    """

    digest: str
    size: int
    created: bool


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob as the store lists it, not verified."""

    digest: str
    size: int
    age: timedelta


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something in the store that is no blob: a killed writer's temporary file, or bytes put in quarantine."""

    path: str
    size: int
    abandoned: bool


class BlobStore:
    """Content-addressed bytes.

    A blob lies at `sha256/ab/cdef...` below the store's root and never changes. It is there whole or not at all:
    writers are atomic, and `put` returns only when the bytes would survive a loss of power (local folders) or the
    object store has acknowledged them. Whatever is read is checked against its digest.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> blobs = BlobStore.open(folder.name)
        >>> info = blobs.put(b"hello")
        >>> info.digest[:8], info.created, blobs.put(b"hello").created
        ('2cf24dba', True, False)
        >>> blobs.get(info.digest)
        b'hello'
        >>> folder.cleanup()
    """

    def __init__(self, store: ObjectStore, *, name: str, root: Path | None) -> None:
        self._store = store
        self._root = root
        self.name = name

    @classmethod
    def open(cls, location: str | Path) -> BlobStore:
        """Open a store; a local folder is created when it is missing.

        Args:
            location: a folder, or a URL that obstore knows (`file:///...`, `s3://bucket/prefix`, `gs://`, `az://`).

        Raises:
            SettingsInvalid: if the URL is of no known kind.
            StorageError: if the folder cannot be created.
        """
        text = str(location)
        root = _local_root(location)
        if root is not None:
            try:
                root.mkdir(parents=True, exist_ok=True)
                return cls(LocalStore(root), name=str(root), root=root.resolve())
            except OSError as error:
                raise storage_error(f"the blob folder {root} cannot be created", error) from error
        try:
            return cls(from_url(text), name=text, root=None)
        except (BaseError, ValueError) as error:
            raise SettingsInvalid(
                f"{text!r} names no blob store: {_first_line(error)}",
                remedy="Set GRAFT_BLOBS to a folder's file:// URL, or to s3://, gs:// or az:// with a bucket.",
            ) from error

    def put(self, source: bytes | Path | FileSpan, *, digest: str | None = None) -> BlobInfo:
        """Store bytes.

        A blob that is there already is read and compared, replaced if it is damaged, and counts as new for `age`,
        so that a garbage collection with a grace period does not take it from under the caller.

        Args:
            source: the bytes, a file, or part of one.
            digest: their SHA-256, where the caller knows it already.

        Raises:
            StorageFull: if there is no space left; nothing is left behind.
            StorageError: if the bytes cannot be read or stored, or change while they are read.
        """
        span = FileSpan.of(source) if isinstance(source, Path) else source
        size = len(span) if isinstance(span, bytes) else span.length
        digest = digest or measure(span)
        path = _path(digest)
        if self._root is None:
            created = self._head(path) is None
            content = span if isinstance(span, bytes) else compared(span, digest)
            with self._told("store", path):
                obstore.put(self._store, path, content)
            return BlobInfo(digest, size, created)
        if not self._root.is_dir():
            # It was there when the store was opened: what is written to another in its place would be lost with it.
            raise StorageError(
                f"the blob folder {self._root} is gone", remedy="Bring it back; nothing is stored until it is there."
            )
        target = self._root / path
        created = not target.exists()
        if not created and self.is_sound(digest):
            try:
                os.utime(target)
                sync(target)
                sync(target.parent)
                return BlobInfo(digest, size, created=False)
            except FileNotFoundError:
                created = True
            except OSError as error:
                raise storage_error(f"{target} cannot be kept", error) from error
        write_file(target, compared(span, digest), staging=self._root / _STAGING)
        return BlobInfo(digest, size, created)

    def get(self, digest: str, *, size: int | None = None) -> bytes:
        """Read a blob whole.

        Args:
            digest: which.
            size: the size it is known to have; a blob of another size is refused before it is read.

        Raises:
            BlobDamaged: if it is missing or its bytes are not those of its digest; such bytes are moved out of the
                way into `quarantine/`, so that the next `put` of the same content heals the blob.
        """
        # Read a second time before judging: a fault of the wire or of memory is no damage of the blob.
        for _ in range(2):
            content = self._read(digest, size)
            if content is None:
                break
            if hashlib.sha256(content).hexdigest() == digest:
                return content
        self._quarantine(digest)
        raise BlobDamaged(
            f"blob {digest} is damaged: it was stored whole and has changed since",
            remedy="Its bytes are in quarantine. Add the base model or publish the adapter again to heal it.",
        )

    def stream(self, digest: str) -> Iterator[bytes]:
        """A blob's bytes, some megabytes at a time; what came is verified only after the last of them.

        Raises:
            BlobDamaged: if it is missing, or (after the last bytes) if they were not those of its digest.
        """
        hasher = hashlib.sha256()
        for chunk in self._chunks(digest):
            hasher.update(chunk)
            yield chunk
        if hasher.hexdigest() != digest:
            raise BlobDamaged(
                f"blob {digest} is damaged: it was stored whole and has changed since",
                remedy="Add the base model or publish the adapter again to heal it.",
            )

    def is_sound(self, digest: str) -> bool:
        """Whether the blob is there and its bytes are those of its digest."""
        try:
            for _ in self.stream(digest):
                pass
        except BlobDamaged:
            return False
        return True

    def exists(self, digest: str, *, size: int | None = None) -> bool:
        """Whether a blob is there (and has that size); its bytes are not read."""
        head = self._head(_path(digest))
        return head is not None and size in (None, head.size)

    def size(self, digest: str) -> int | None:
        """Number of bytes of a blob; None when it is not there."""
        head = self._head(_path(digest))
        return None if head is None else head.size

    def age(self, digest: str) -> timedelta | None:
        """How long ago a blob was last put; None when it is not there."""
        head = self._head(_path(digest))
        return None if head is None else head.age

    def iterate(self) -> Iterator[StoredBlob]:
        """Every blob, in no order."""
        with self._told("list", "sha256"):
            for batch in obstore.list(self._store, "sha256"):
                for meta in batch:
                    match = _BLOB.fullmatch(meta["path"])
                    if match:
                        yield StoredBlob(match[1] + match[2], meta["size"], _age(meta["last_modified"]))

    def delete(self, digest: str) -> None:
        """Delete a blob; nothing happens when it is not there."""
        self._delete(_path(digest))

    def leftovers(self, grace: timedelta) -> Iterator[Leftover]:
        """What killed writers and damaged blobs left behind.

        Args:
            grace: bytes in quarantine count as abandoned when they are at least so old. Temporary files do when
                their writer is dead or, where that cannot be known, a day old.
        """
        for folder in (_STAGING, _QUARANTINE):
            with self._told("list", folder):
                for batch in obstore.list(self._store, folder):
                    for meta in batch:
                        age = _age(meta["last_modified"])
                        if folder == _QUARANTINE:
                            abandoned = age >= grace
                        else:
                            abandoned = is_abandoned(Path(meta["path"]).name) or age >= max(grace, STRANGER_AGE)
                        yield Leftover(meta["path"], meta["size"], abandoned)

    def sweep(self, leftover: Leftover) -> None:
        """Delete a leftover."""
        self._delete(leftover.path)

    def _read(self, digest: str, size: int | None) -> bytes | None:
        """All bytes, not verified; None, and nothing is read, when there are not `size` of them."""
        path = _path(digest)
        try:
            with self._told("read", path):
                if self._root is not None:
                    # Without the detour through the store's own threads, which costs more than a small file.
                    with (self._root / path).open("rb", buffering=0) as file:
                        return file.read() if size in (None, os.fstat(file.fileno()).st_size) else None
                found = obstore.get(self._store, path)
                return bytes(found.bytes()) if size in (None, found.meta["size"]) else None
        except FileNotFoundError as error:
            raise _missing(digest) from error

    def _chunks(self, digest: str) -> Iterator[bytes]:
        path = _path(digest)
        try:
            with self._told("read", path):
                for chunk in obstore.get(self._store, path).stream(min_chunk_size=CHUNK):
                    yield bytes(chunk)
        except FileNotFoundError as error:
            raise _missing(digest) from error

    def _head(self, path: str) -> StoredBlob | None:
        try:
            with self._told("look up", path):
                if self._root is not None:
                    status = (self._root / path).stat()
                    moment = datetime.fromtimestamp(status.st_mtime, UTC)
                    return StoredBlob(path, status.st_size, _age(moment))
                meta = obstore.head(self._store, path)
        except FileNotFoundError:
            return None
        return StoredBlob(path, meta["size"], _age(meta["last_modified"]))

    def _delete(self, path: str) -> None:
        try:
            with self._told("delete", path):
                obstore.delete(self._store, path)
        except FileNotFoundError:
            pass

    def _quarantine(self, digest: str) -> None:
        """Move damaged bytes away, unless somebody has healed the blob since, or nothing may be written here."""
        path, aside = _path(digest), f"{_QUARANTINE}/{digest}.{uuid.uuid4().hex}"
        try:
            obstore.rename(self._store, path, aside)
            if hashlib.sha256(obstore.get(self._store, aside).bytes()).hexdigest() == digest:
                obstore.rename(self._store, aside, path)
        except (BaseError, OSError):
            return

    @contextmanager
    def _told(self, verb: str, path: str) -> Iterator[None]:
        """Turn the store's errors into the project's; that a file is not there is for the caller to judge."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise storage_error(f"the blob store {self.name} did not {verb} {path}", error) from error
        except BaseError as error:
            raise StorageError(
                f"the blob store {self.name} did not {verb} {path}: {_first_line(error)}",
                remedy="Check that the store can be reached and that its credentials allow this.",
            ) from error


def _local_root(location: str | Path) -> Path | None:
    if isinstance(location, Path):
        return location
    parts = urlsplit(location)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return None if "://" in location else Path(location)


def _path(digest: str) -> str:
    path = f"sha256/{digest[:2]}/{digest[2:]}"
    if _BLOB.fullmatch(path) is None:
        raise BlobDamaged(f"{digest[:80]!r} is not a SHA-256 digest", remedy="Run graft fsck.")
    return path


def _missing(digest: str) -> BlobDamaged:
    return BlobDamaged(
        f"blob {digest} is missing from the store",
        remedy="Add the base model or publish the adapter again to heal it; graft fsck tells what else is missing.",
    )


def _age(moment: datetime) -> timedelta:
    # A clock that was set back must not make anything look as if it were of the future.
    return max(datetime.now(UTC) - moment, timedelta())


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
