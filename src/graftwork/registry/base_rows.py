"""Base models as the database holds them."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from graftwork.errors import NotFound
from graftwork.registry.manifest import FileEntry
from graftwork.registry.metadata import BaseMetadata
from graftwork.registry.near import did_you_mean
from graftwork.registry.tables import adapter_versions, base_files, base_models, base_names, base_pieces

_PREFIX = re.compile(r"[0-9a-f]{8,64}")
_REMEDY = "graft base list shows what there is."


@dataclass(frozen=True)
class BaseModel:
    """A base model in the registry.

    Attributes:
        fingerprint: SHA-256 over config, tensors and tokenizer: its identity.
        tokenizer: SHA-256 of its tokenizer.
        family: such as `minilm`.
        version: of the family.
        variant: of the version.
        aliases: names it also goes by, oldest first.
        metadata: what an engineer needs to know of it.
        files: every file of its folder.
        size_bytes: bytes of all files.
        created_at: when it was added.
        children: how many adapter versions are made for it.
    """

    fingerprint: str
    tokenizer: str
    family: str
    version: str
    variant: str
    aliases: tuple[str, ...]
    metadata: BaseMetadata
    files: tuple[FileEntry, ...]
    size_bytes: int
    created_at: datetime
    children: int

    @property
    def reference(self) -> str:
        """`family/version/variant`."""
        return f"{self.family}/{self.version}/{self.variant}"


def reference_column() -> sa.ColumnElement[str]:
    """`family/version/variant` in a query."""
    return base_models.c.family + "/" + base_models.c.version + "/" + base_models.c.variant


def load_bases(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> list[BaseModel]:
    """The base models that meet all conditions on `base_models`, by family, then oldest first; four queries."""
    chosen = sa.select(base_models.c.id).where(*conditions)
    aliases: dict[int, list[str]] = defaultdict(list)
    by_age = (base_names.c.created_at, base_names.c.name)
    for name in connection.execute(sa.select(base_names).where(base_names.c.base_id.in_(chosen)).order_by(*by_age)):
        aliases[name.base_id].append(name.name)
    files: dict[int, list[FileEntry]] = defaultdict(list)
    for file in connection.execute(
        sa.select(base_files).where(base_files.c.base_id.in_(chosen)).order_by(base_files.c.path)
    ):
        files[file.base_id].append(FileEntry(path=file.path, sha256=file.sha256, size=file.size))
    base_id = adapter_versions.c.base_id
    counted = sa.select(base_id, sa.func.count()).where(base_id.in_(chosen)).group_by(base_id)
    children = {row[0]: row[1] for row in connection.execute(counted)}
    rows = connection.execute(
        sa.select(base_models).where(*conditions).order_by(base_models.c.family, base_models.c.id)
    )
    return [
        BaseModel(
            fingerprint=row.fingerprint,
            tokenizer=row.tokenizer,
            family=row.family,
            version=row.version,
            variant=row.variant,
            aliases=tuple(aliases[row.id]),
            metadata=BaseMetadata.model_validate(row.facts),
            files=tuple(files[row.id]),
            size_bytes=row.size_bytes,
            created_at=row.created_at,
            children=children.get(row.id, 0),
        )
        for row in rows
    ]


def find_base_id(connection: sa.Connection, reference: str) -> int:
    """Row of the base model that `reference` names.

    Tried in this order: a name it goes by; `family/version/variant`; `family/version` and `family`, which mean the
    newest of those; its fingerprint, or the first eight or more characters of it if no other begins so.

    Raises:
        NotFound: if there is none, or a prefix fits several.
    """
    named: int | None = connection.scalar(sa.select(base_names.c.base_id).where(base_names.c.name == reference))
    if named is not None:
        return named
    parts = reference.split("/")
    columns = (base_models.c.family, base_models.c.version, base_models.c.variant)
    if len(parts) <= len(columns):
        fits = [column == part for column, part in zip(columns, parts, strict=False)]
        newest: int | None = connection.scalar(
            sa.select(base_models.c.id).where(*fits).order_by(base_models.c.id.desc()).limit(1)
        )
        if newest is not None:
            return newest
    if _PREFIX.fullmatch(reference):
        begins = base_models.c.fingerprint.startswith(reference)
        found = connection.execute(sa.select(base_models.c.id, base_models.c.fingerprint).where(begins)).all()
        if len(found) == 1:
            return int(found[0].id)
        if found:
            shown = " and ".join(row.fingerprint[: len(reference) + 8] for row in found[:3])
            raise NotFound(f"{reference!r} begins more than one fingerprint: {shown}", remedy="Write more of it.")
    names = [*connection.scalars(sa.select(base_names.c.name)), *connection.scalars(sa.select(reference_column()))]
    raise NotFound(f"no base model {reference[:200]!r}", remedy=did_you_mean(reference, names, _REMEDY))


def load_recipe(connection: sa.Connection, fingerprint: str) -> dict[str, list[tuple[str, int]]]:
    """The pieces (digest, size) of each file of a base model, by path, in order."""
    recipe: dict[str, list[tuple[str, int]]] = {}
    statement = (
        sa.select(base_files.c.path, base_pieces.c.digest, base_pieces.c.size)
        .join_from(base_files, base_pieces)
        .join(base_models, base_models.c.id == base_files.c.base_id)
        .where(base_models.c.fingerprint == fingerprint)
        .order_by(base_files.c.path, base_pieces.c.position)
    )
    for row in connection.execute(statement):
        recipe.setdefault(row.path, []).append((row.digest, row.size))
    return recipe
