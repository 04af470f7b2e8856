"""What a new base model will be in the database, measured from its folder, and its rows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from graftwork.errors import Conflict
from graftwork.registry.base_folder import FolderPlan
from graftwork.registry.metadata import BaseMetadata
from graftwork.registry.spans import FileSpan, measure
from graftwork.registry.tables import base_files, base_models, base_pieces


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a file, and the SHA-256 it had when it was measured."""

    span: FileSpan
    digest: str


@dataclass(frozen=True, slots=True)
class MeasuredFile:
    """A file of the model: its path, its SHA-256 and its pieces in order."""

    path: str
    sha256: str
    pieces: tuple[Piece, ...]

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return sum(piece.span.length for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A base model that is about to be added.

    Attributes:
        fingerprint: its identity.
        tokenizer: SHA-256 of its tokenizer.
        metadata: facts about it.
        family: where it will stand.
        version: None for the next free number of the family.
        variant: of the version.
        files: its files.
    """

    fingerprint: str
    tokenizer: str
    metadata: BaseMetadata
    family: str
    version: str | None
    variant: str
    files: tuple[MeasuredFile, ...]

    @property
    def pieces(self) -> list[Piece]:
        """Every piece of every file."""
        return [piece for file in self.files for piece in file.pieces]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def measure_plan(plan: FolderPlan) -> tuple[MeasuredFile, ...]:
    """Digests of all files and pieces, each byte read once, so that the two cannot tell of different moments."""
    measured = []
    for file in plan.files:
        whole = hashlib.sha256()
        pieces = tuple(Piece(span, measure(span, running=whole)) for span in file.pieces)
        measured.append(MeasuredFile(file.path, whole.hexdigest(), pieces))
    return tuple(measured)


def insert_base(connection: sa.Connection, new: Candidate) -> int:
    """Insert a base model, its files and their pieces; returns its row.

    Raises:
        Conflict: if its family/version/variant belongs to another.
    """
    version = new.version or _next_version(connection, new.family)
    place = {"family": new.family, "version": version, "variant": new.variant}
    same = [base_models.c[column] == word for column, word in place.items()]
    if connection.scalar(sa.select(base_models.c.id).where(*same)) is not None:
        raise Conflict(
            f"{'/'.join(place.values())} is another base model",
            remedy="Choose another version or variant, or leave the version out to get the next free one.",
        )
    base_id = _insert(
        connection,
        base_models,
        **place,
        fingerprint=new.fingerprint,
        tokenizer=new.tokenizer,
        architecture=new.metadata.architecture,
        domain=new.metadata.domain,
        parameters=new.metadata.parameters,
        size_bytes=new.size,
        facts=new.metadata.model_dump(mode="json"),
        created_at=datetime.now(UTC),
    )
    for file in new.files:
        file_id = _insert(connection, base_files, base_id=base_id, path=file.path, sha256=file.sha256, size=file.size)
        pieces = [
            {"file_id": file_id, "position": position, "digest": piece.digest, "size": piece.span.length}
            for position, piece in enumerate(file.pieces)
        ]
        connection.execute(sa.insert(base_pieces), pieces)
    return base_id


def _next_version(connection: sa.Connection, family: str) -> str:
    taken = connection.scalars(sa.select(base_models.c.version).where(base_models.c.family == family)).all()
    return str(1 + max((int(version) for version in taken if version.isdecimal()), default=0))


def _insert(connection: sa.Connection, table: sa.Table, **values: object) -> int:
    key = connection.execute(sa.insert(table).values(values).returning(table.c.id)).scalar_one()
    return int(key)
