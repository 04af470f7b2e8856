"""Base models: added once, stored tensor by tensor, listed without touching weights, fetched when they are needed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from graftwork.errors import Conflict, InUse, ModelUnreadable
from graftwork.registry.base_cache import fetch_base
from graftwork.registry.base_folder import plan_folder
from graftwork.registry.base_insert import Candidate, Piece, insert_base, measure_plan
from graftwork.registry.base_rows import BaseModel, find_base_id, load_bases, load_recipe, reference_column
from graftwork.registry.blobs import BlobStore
from graftwork.registry.database import Database
from graftwork.registry.metadata import Architecture, BaseMetadata, Domain
from graftwork.registry.reference import check_word
from graftwork.registry.tables import adapter_versions, adapters, base_files, base_models, base_names, base_pieces

if TYPE_CHECKING:
    import builtins

_SHA256 = re.compile(r"[0-9a-f]{64}")
_WRITERS = 4
"""Threads that store pieces: each mostly waits until the disk has taken its bytes."""


@dataclass(frozen=True, slots=True)
class AddedBase:
    """What `add` did.

    Attributes:
        base: the base model.
        created: False when the same content was there already; the name is then one more alias of it.
        alias_of: `family/version/variant` of the content that was there already, or None.
        bytes_total: bytes of the folder's files that are part of the model.
        bytes_new: bytes that had to be stored; the rest is shared with what was there.
        skipped: files of the folder that stay behind: hidden, code, or weights in other formats.
    """

    base: BaseModel
    created: bool
    alias_of: str | None
    bytes_total: int
    bytes_new: int
    skipped: tuple[str, ...]


class BaseModels:
    """The base models of a registry.

    Args:
        database: where they are listed.
        blobs: where their bytes are.
        cache: folder into which they are fetched; it may be deleted at any time.
    """

    def __init__(self, database: Database, blobs: BlobStore, cache: Path) -> None:
        self._database = database
        self._blobs = blobs
        self._cache = cache

    def add(
        self,
        folder: Path,
        *,
        fingerprint: str,
        tokenizer: str,
        metadata: BaseMetadata,
        name: str,
        family: str | None = None,
        version: str | None = None,
        variant: str | None = None,
    ) -> AddedBase:
        """Add the model in a folder of Hugging Face layout, under a name.

        Each tensor is stored once, whatever models hold it. When a model of this fingerprint is there already, the
        name becomes one more alias of it, and blobs of it that were damaged are healed.

        Args:
            folder: the model's files.
            fingerprint: SHA-256 over what the model is (see `graftwork.backbones.inspect_model`).
            tokenizer: SHA-256 of its tokenizer.
            metadata: facts about it.
            name: what it is called.
            family: the name, when it is not given.
            version: the next free number of the family, when it is not given.
            variant: `base`, when it is not given.

        Raises:
            ModelUnreadable: if the folder is unsound, with every problem.
            ReferenceMalformed: if a name, family, version or variant cannot be one.
            Conflict: if the name, or family/version/variant, belongs to another model.
            StorageFull: if there is no space; nothing becomes visible.
        """
        for kind, word in (("name", name), ("family", family), ("version", version), ("variant", variant)):
            if word is not None:
                check_word(kind, word)
        if not _SHA256.fullmatch(fingerprint) or not _SHA256.fullmatch(tokenizer):
            raise ModelUnreadable("a fingerprint is 64 hexadecimal digits", remedy="Take it from inspect_model().")
        plan = plan_folder(folder)
        files = measure_plan(plan)
        new = Candidate(fingerprint, tokenizer, metadata, family or name, version, variant or "base", files)
        base, created, bytes_new = self._add(new, name)
        return AddedBase(
            base=base,
            created=created,
            alias_of=None if created else base.reference,
            bytes_total=new.size,
            bytes_new=bytes_new,
            skipped=plan.skipped,
        )

    def _add(self, new: Candidate, name: str) -> tuple[BaseModel, bool, int]:
        """Store what is new and insert the rows; returns the model, whether it was new, and the new bytes."""
        with self._database.read() as connection:
            known = _find(connection, new.fingerprint, name)
            recipe = load_recipe(connection, new.fingerprint)
        # Of a model that is known only its own blobs are put again, which heals them; a changed README is not kept.
        own = {digest for pieces in recipe.values() for digest, _ in pieces}
        stored = self._store([piece for piece in new.pieces if known is None or piece.digest in own])
        with self._database.write() as connection:
            base_id = _find(connection, new.fingerprint, name)
            created = base_id is None
            if base_id is None:
                # A collection may have run since they were put; while the lock is held, none can.
                stored += self._store([piece for piece in new.pieces if not self._holds(piece)])
                base_id = insert_base(connection, new)
            if connection.scalar(sa.select(base_names.c.base_id).where(base_names.c.name == name)) is None:
                row = {"name": name, "base_id": base_id, "created_at": datetime.now(UTC)}
                connection.execute(sa.insert(base_names).values(row))
            (base,) = load_bases(connection, base_models.c.id == base_id)
        return base, created, stored

    def resolve(self, reference: str) -> BaseModel:
        """The base model that `reference` names.

        Args:
            reference: a name, `family/version/variant`, `family/version` or `family` (the newest of those), or at
                least eight characters of the fingerprint.

        Raises:
            NotFound: if there is none; near names are offered.
        """
        with self._database.read() as connection:
            return load_bases(connection, base_models.c.id == find_base_id(connection, reference))[0]

    def in_use(self, domain: Domain) -> builtins.list[str]:
        """References of the base models that have adapters; takes as long however many adapters there are."""
        used = sa.exists().where(adapter_versions.c.base_id == base_models.c.id)
        query = sa.select(reference_column()).where(base_models.c.domain == domain, used).order_by(base_models.c.id)
        with self._database.read() as connection:
            return [*connection.scalars(query)]

    def list(
        self,
        *,
        search: str | None = None,
        domain: Domain | None = None,
        architecture: Architecture | None = None,
        max_parameters: int | None = None,
    ) -> list[BaseModel]:
        """Base models by their metadata; no weights are touched.

        Args:
            search: text that occurs, in any case, in a name or in the metadata.
            domain: of this domain only.
            architecture: of this architecture only.
            max_parameters: with at most so many weights.
        """
        conditions: list[sa.ColumnElement[bool]] = []
        if search:
            named = sa.select(base_names.c.base_id).where(base_names.c.name.icontains(search, autoescape=True))
            facts = sa.cast(base_models.c.facts, sa.Text)
            texts = (reference_column().icontains(search, autoescape=True), facts.icontains(search, autoescape=True))
            conditions.append(sa.or_(base_models.c.id.in_(named), *texts))
        if domain is not None:
            conditions.append(base_models.c.domain == domain)
        if architecture is not None:
            conditions.append(base_models.c.architecture == architecture)
        if max_parameters is not None:
            conditions.append(base_models.c.parameters <= max_parameters)
        with self._database.read() as connection:
            return load_bases(connection, *conditions)

    def remove(self, reference: str) -> BaseModel:
        """Remove a base model and all its names; its bytes go with the next garbage collection.

        Raises:
            NotFound: if there is none.
            InUse: if adapters are made for it.
        """
        with self._database.write() as connection:
            base_id = find_base_id(connection, reference)
            (base,) = load_bases(connection, base_models.c.id == base_id)
            if base.children:
                shown = _children(connection, base_id)
                raise InUse(
                    f"base model {base.reference} has {base.children} adapter versions: {shown}",
                    remedy="Remove those first (graft rm).",
                )
            ids = sa.select(base_files.c.id).where(base_files.c.base_id == base_id)
            connection.execute(sa.delete(base_pieces).where(base_pieces.c.file_id.in_(ids)))
            connection.execute(sa.delete(base_files).where(base_files.c.base_id == base_id))
            connection.execute(sa.delete(base_names).where(base_names.c.base_id == base_id))
            connection.execute(sa.delete(base_models).where(base_models.c.id == base_id))
        return base

    def fetch(self, base: BaseModel) -> Path:
        """A folder with the model's files, each verified just now against its SHA-256.

        What is cached and sound is not read from the blob store again. Files that are missing or damaged are made
        anew, each at once, so that two processes may fetch the same model.

        Raises:
            BlobDamaged: if its bytes in the blob store are missing or damaged.
            StorageFull: if the cache has no space left.
        """

        def recipe() -> dict[str, list[tuple[str, int]]]:
            with self._database.read() as connection:
                return load_recipe(connection, base.fingerprint)

        return fetch_base(base, recipe, self._blobs, self._cache)

    def _holds(self, piece: Piece) -> bool:
        return self._blobs.exists(piece.digest, size=piece.span.length)

    def _store(self, pieces: Sequence[Piece]) -> int:
        """Put every piece; returns the bytes that were new."""
        distinct = {piece.digest: piece for piece in pieces}.values()
        with ThreadPoolExecutor(_WRITERS) as pool:
            try:
                done = list(pool.map(lambda piece: self._blobs.put(piece.span, digest=piece.digest), distinct))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return sum(info.size for info in done if info.created)


def _find(connection: sa.Connection, fingerprint: str, name: str) -> int | None:
    """Row of the model with this fingerprint, if there is one; refuses a name that belongs to another."""
    statement = (
        sa.select(base_models.c.fingerprint, reference_column().label("reference"))
        .join_from(base_names, base_models)
        .where(base_names.c.name == name)
    )
    owner = connection.execute(statement).one_or_none()
    if owner is not None and owner.fingerprint != fingerprint:
        raise Conflict(
            f"the name {name!r} belongs to another base model, {owner.reference}",
            remedy="Choose another name, or remove that model first (graft base rm).",
        )
    same = base_models.c.fingerprint == fingerprint
    row: int | None = connection.scalar(sa.select(base_models.c.id).where(same))
    return row


def _children(connection: sa.Connection, base_id: int) -> str:
    """The newest few adapter versions of a base, named."""
    statement = (
        sa.select(adapters.c.tenant, adapters.c.name, adapter_versions.c.version)
        .join_from(adapter_versions, adapters)
        .where(adapter_versions.c.base_id == base_id)
        .order_by(adapter_versions.c.id.desc())
        .limit(5)
    )
    return ", ".join(f"{row.tenant}/{row.name}@{row.version}" for row in connection.execute(statement))
