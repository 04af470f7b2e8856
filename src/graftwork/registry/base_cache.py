"""Base models as folders that a model can be loaded from, put together out of blobs."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from graftwork.errors import BlobDamaged, StorageError
from graftwork.registry.base_folder import is_safe_path
from graftwork.registry.base_rows import BaseModel
from graftwork.registry.blobs import BlobStore
from graftwork.registry.durable import is_abandoned, storage_error, write_file
from graftwork.registry.manifest import FileEntry
from graftwork.registry.spans import FileSpan, measure

Recipe = Mapping[str, Sequence[tuple[str, int]]]


def fetch_base(base: BaseModel, recipe: Callable[[], Recipe], blobs: BlobStore, cache: Path) -> Path:
    """A folder that holds exactly the files of `base`, each verified against its SHA-256.

    Args:
        base: the base model.
        recipe: gives the pieces (digest, size) of each file; called only when a file must be made.
        blobs: where the pieces are.
        cache: folder of all fetched models.

    Raises:
        BlobDamaged: if a piece is missing or damaged, or the pieces do not make the file.
        StorageFull: if the cache has no space left.
    """
    folder = cache / base.fingerprint
    for entry in base.files:
        if not is_safe_path(entry.path):
            raise BlobDamaged(f"base model {base.reference} has a file at {entry.path!r}", remedy="Run graft fsck.")
    try:
        _remove_strangers(folder, {entry.path for entry in base.files})
        unsound = [entry for entry in base.files if not _is_sound(folder / entry.path, entry)]
    except OSError as error:
        raise storage_error(f"the cached base model in {folder} cannot be read", error) from error
    if unsound:
        pieces = recipe()
        staging = cache / "staging"
        _sweep(staging)
        for entry in unsound:
            content = assemble(entry, pieces.get(entry.path, ()), blobs)
            try:
                write_file(folder / entry.path, content, staging=staging, durable=False)
            except BlobDamaged as error:
                raise BlobDamaged(
                    f"base model {base.reference} cannot be fetched, {entry.path} is incomplete: {error.message}",
                    remedy="Add the base model again from its folder: that heals it.",
                ) from error
    return folder


def assemble(entry: FileEntry, pieces: Sequence[tuple[str, int]], blobs: BlobStore) -> Iterator[bytes]:
    """The bytes of a file out of its pieces, some megabytes at a time.

    Raises:
        BlobDamaged: if a piece is missing or damaged, or (after the last bytes) they do not make the file.
    """
    whole = hashlib.sha256()
    for digest, _ in pieces:
        for chunk in blobs.stream(digest):
            whole.update(chunk)
            yield chunk
    if whole.hexdigest() != entry.sha256:
        raise BlobDamaged(f"the pieces of {entry.path} do not make the file", remedy="Add the base model again.")


def _is_sound(path: Path, entry: FileEntry) -> bool:
    if path.is_symlink() or not path.is_file() or path.stat().st_size != entry.size:
        return False
    try:
        return measure(FileSpan.of(path)) == entry.sha256
    except StorageError:  # another process changes it at this moment: it is made anew
        return False


def _remove_strangers(folder: Path, paths: set[str]) -> None:
    """Delete what no model file is: somebody's code beside the weights must not be loaded with them."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        folder.unlink()
    parents = {parent.as_posix() for path in paths for parent in Path(path).parents}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        relative = path.relative_to(folder).as_posix()
        real_folder = path.is_dir() and not path.is_symlink()
        if real_folder and relative not in parents:
            shutil.rmtree(path, ignore_errors=True)
        elif not real_folder and relative not in paths:
            path.unlink(missing_ok=True)


def _sweep(staging: Path) -> None:
    for path in staging.glob("*"):
        if is_abandoned(path.name):
            path.unlink(missing_ok=True)
