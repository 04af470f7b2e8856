"""Writing local files so that they are whole or absent, whatever happens in between.

A file is written under a temporary name that tells its owner, forced to the disk, and only then given its real name.
What a killed process leaves behind can be told from what a living one is just writing.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import uuid
from collections.abc import Iterable
from pathlib import Path

from graftwork.errors import StorageError, StorageFull

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_HOST = re.sub(r"[^A-Za-z0-9.]", "-", socket.gethostname()) or "host"
_OWNED = re.compile(r"(?P<host>.+)\.pid(?P<pid>[1-9][0-9]*)\.[0-9a-f]{32}")


def owned_name() -> str:
    """A new name for something temporary: it says which process of which host owns it."""
    return f"{_HOST}.pid{os.getpid()}.{uuid.uuid4().hex}"


def is_abandoned(name: str) -> bool:
    """Whether the process that `owned_name()` was called in is known to be gone.

    A process of another host cannot be known: its leavings count as owned, until their age tells otherwise.
    """
    match = _OWNED.fullmatch(name)
    if match is None or match["host"] != _HOST:
        return False
    try:
        os.kill(int(match["pid"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def write_file(path: Path, chunks: Iterable[bytes | memoryview], *, staging: Path, durable: bool = True) -> None:
    """Write `chunks` to `path`, replacing what is there at once.

    Args:
        path: the file to write; its folder is created.
        chunks: the content, in order.
        staging: folder for the temporary file, on the same file system.
        durable: force it to the disk; False for what can be made again at any time.

    Raises:
        StorageFull: if there is no space left.
        StorageError: if it cannot be written.
    """
    temporary = staging / owned_name()
    try:
        _make_folder(staging, durable=durable)
        _make_folder(path.parent, durable=durable)
        with temporary.open("xb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
        if durable:
            sync(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise storage_error(f"{path} cannot be written", error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Force a file's content, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def storage_error(what: str, error: OSError) -> StorageError:
    """The project's error for what the operating system refused."""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return StorageFull(f"{what}: {reason}", remedy="Free space on that disk (or raise its quota), then try again.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageError(f"{what}: {reason}", remedy="Make that place writable for this user, then try again.")
    return StorageError(f"{what}: {reason}", remedy="Check the disk and its folder, then try again.")


def _make_folder(folder: Path, *, durable: bool) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent, durable=durable)
    folder.mkdir(exist_ok=True)
    if durable:
        sync(folder.parent)
