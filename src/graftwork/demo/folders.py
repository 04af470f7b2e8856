"""A folder that is whole or absent, whatever kills the process that makes it."""

from __future__ import annotations

import errno
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from filelock import FileLock

from graftwork.errors import DownloadFailed, Problem, StorageError, StorageFull

SUMS = "SHA256SUMS"


def is_whole(folder: Path, digests: Mapping[str, str]) -> bool:
    """Whether the folder holds every file of `digests` (relative path -> SHA-256), unchanged.

    Where there are too many to pin each, `digests` names the file SHA256SUMS, which holds theirs (see `write_sums`).
    """
    return not _wrong(folder, digests)


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS, as `sha256sum` does: a line for every file in the folder, with digest and relative path."""
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    lines = (f"{_sha256(folder / path)}  {path}\n" for path in paths)
    (folder / SUMS).write_text("".join(lines), "utf-8")


def make_folder(target: Path, digests: Mapping[str, str], make: Callable[[Path, Path], None]) -> bool:
    """Make a folder unless it is there already and whole.

    It is made under another name, verified, and renamed into place, by one process at a time. What a killed process
    left is swept by the next; a folder that was damaged is made anew.

    Args:
        target: the folder; its parents are made too.
        digests: relative path -> SHA-256 of every file that must be in it.
        make: called with an empty folder to fill and an empty folder for scratch.

    Returns:
        Whether it had to be made.

    Raises:
        DownloadFailed: what was made is not what `digests` says.
        StorageFull: no space is left.
        StorageError: the folder cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / f".{target.name}.lock"):
            if is_whole(target, digests):
                return False
            prefix = f".{target.name}-part-"
            for left in target.parent.glob(f"{prefix}*"):
                shutil.rmtree(left, ignore_errors=True)
            part = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
            try:
                _make(target, digests, make, part)
            finally:
                shutil.rmtree(part, ignore_errors=True)
            return True
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFull(
                f"no space is left to make {target}", remedy="Free some space and run it again."
            ) from error
        raise StorageError(
            f"{target} cannot be made: {error.strerror or error}", remedy="Name a folder that can be written."
        ) from error


def _make(target: Path, digests: Mapping[str, str], make: Callable[[Path, Path], None], part: Path) -> None:
    made, scratch = part / "made", part / "scratch"
    made.mkdir()
    scratch.mkdir()
    make(made, scratch)
    wrong = _wrong(made, digests)
    if wrong:
        raise DownloadFailed(
            f"what was made for {target} is not what it should be",
            problems=[Problem(path, "missing, or with other content than expected") for path in wrong],
            remedy="Nothing was kept. Update Graftwork, or report this with the versions of Python and NumPy.",
        )
    if target.exists():
        target.rename(part / "damaged")
    made.rename(target)


def _wrong(folder: Path, digests: Mapping[str, str]) -> list[str]:
    wrong = [path for path, digest in digests.items() if _sha256(folder / path) != digest]
    if SUMS in digests and SUMS not in wrong:
        listed = (line.split("  ", 1) for line in (folder / SUMS).read_text("utf-8").splitlines())
        wrong += [path for digest, path in listed if _sha256(folder / path) != digest]
    return wrong


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
