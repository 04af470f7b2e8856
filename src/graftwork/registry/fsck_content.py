"""What must be proved with the blobs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from graftwork.errors import ArtifactError
from graftwork.registry.artifact import MANIFEST, ArtifactLimits
from graftwork.registry.base_cache import assemble
from graftwork.registry.base_folder import is_safe_path
from graftwork.registry.base_rows import reference_column
from graftwork.registry.blobs import BlobStore
from graftwork.registry.catalog import read_artifact
from graftwork.registry.manifest import FileEntry
from graftwork.registry.tables import adapter_files, adapter_versions, adapters, base_files, base_models, base_pieces

Owner = tuple[Literal["base", "adapter"], int]
"""What a fault belongs to: its kind and its row."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, of a kind; `owner` is what it would vanish with."""

    code: str
    what: str
    owner: Owner | None = None


@dataclass(frozen=True, slots=True)
class BaseFile:
    """A file of a base model as its rows tell it; pieces are (digest, size) in order."""

    base_id: int
    base: str
    path: str
    sha256: str
    size: int
    pieces: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Version:
    """An adapter version as its rows tell it; files are (digest, size) by name."""

    row: int
    reference: str
    digest: str
    base: str
    parent: str | None
    files: dict[str, tuple[str, int]]


def load_files(connection: sa.Connection) -> list[BaseFile]:
    """Every file of every base model."""
    pieces: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for row in connection.execute(sa.select(base_pieces).order_by(base_pieces.c.file_id, base_pieces.c.position)):
        pieces[row.file_id].append((row.digest, row.size))
    statement = sa.select(base_files, reference_column().label("base")).join_from(base_files, base_models)
    return [
        BaseFile(row.base_id, row.base, row.path, row.sha256, row.size, tuple(pieces[row.id]))
        for row in connection.execute(statement.order_by(base_files.c.id))
    ]


def load_versions(connection: sa.Connection) -> list[Version]:
    """Every version of every adapter."""
    files: dict[int, dict[str, tuple[str, int]]] = defaultdict(dict)
    for row in connection.execute(sa.select(adapter_files)):
        files[row.version_id][row.path] = (row.digest, row.size)
    parent = adapter_versions.alias("parent")
    statement = (
        sa.select(adapter_versions.c.id, adapters.c.tenant, adapters.c.name, adapter_versions.c.version)
        .add_columns(adapter_versions.c.digest, base_models.c.fingerprint, parent.c.digest.label("parent"))
        .select_from(
            adapter_versions.join(adapters)
            .join(base_models)
            .outerjoin(parent, parent.c.id == adapter_versions.c.parent_id)
        )
        .order_by(adapter_versions.c.id)
    )
    return [
        Version(
            row.id, f"{row.tenant}/{row.name}@{row.version}", row.digest, row.fingerprint, row.parent, files[row.id]
        )
        for row in connection.execute(statement)
    ]


def check_file(file: BaseFile, stored: Mapping[str, int], blobs: BlobStore, *, hash_content: bool) -> Iterator[Fault]:
    """Whether a base model's file can be put together again, byte for byte."""
    owner: Owner = ("base", file.base_id)
    where = f"base model {file.base}, {file.path}"
    faults = list(_check_presence(where, dict.fromkeys(file.pieces), stored, owner))
    if not is_safe_path(file.path):
        faults.append(Fault("row-unresolved", f"{where}: the path leads elsewhere", owner))
    if sum(size for _, size in file.pieces) != file.size:
        faults.append(Fault("row-unresolved", f"{where}: its pieces have not as many bytes as it", owner))
    if hash_content and not faults:
        entry = FileEntry(path=file.path, sha256=file.sha256, size=file.size)
        try:
            for _ in assemble(entry, file.pieces, blobs):
                pass
        except ArtifactError as error:
            faults.append(Fault("blob-damaged", f"{where}: {error.message}", owner))
    yield from faults


def check_version(
    version: Version, stored: Mapping[str, int], blobs: BlobStore, limits: ArtifactLimits, *, hash_content: bool
) -> Iterator[Fault]:
    """Whether an adapter is what its rows say, and would be taken by whoever loads it."""
    owner: Owner = ("adapter", version.row)
    where = f"adapter {version.reference}"
    faults = list(_check_presence(where, version.files.values(), stored, owner))
    if version.files.get(MANIFEST, ("", 0))[0] != version.digest:
        faults.append(Fault("row-unresolved", f"{where}: its digest is not that of its manifest", owner))
    if not hash_content or faults:
        yield from faults
        return
    for path, (digest, _) in version.files.items():
        if not blobs.is_sound(digest):
            faults.append(Fault("blob-damaged", f"{where}, {path}: blob {digest} is damaged", owner))
    if not faults:
        faults += [Fault("adapter-unsound", f"{where}: {what}", owner) for what in _unsound(version, blobs, limits)]
    yield from faults


def _check_presence(
    where: str, needed: Iterable[tuple[str, int]], stored: Mapping[str, int], owner: Owner
) -> Iterator[Fault]:
    for digest, size in needed:
        if digest not in stored:
            yield Fault("blob-missing", f"{where}: blob {digest} is missing", owner)
        elif stored[digest] != size:
            found = f"blob {digest} has {stored[digest]} bytes instead of {size}"
            yield Fault("blob-damaged", f"{where}: {found}", owner)


def _unsound(version: Version, blobs: BlobStore, limits: ArtifactLimits) -> Iterator[str]:
    try:
        artifact = read_artifact(blobs, version.digest, limits)
    except ArtifactError as error:
        yield " ".join([error.message, *map(str, error.problems)])
        return
    manifest = artifact.manifest
    if manifest.base != version.base:
        yield "its manifest names another base model"
    if manifest.parent != version.parent:
        yield "its manifest names another parent"
    files = {entry.path: (entry.sha256, entry.size) for entry in manifest.files}
    if files != {path: entry for path, entry in version.files.items() if path != MANIFEST}:
        yield "its manifest names other files"
