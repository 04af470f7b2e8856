"""Adapter versions as the database holds them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from graftwork.errors import NotFound
from graftwork.registry.base_rows import reference_column
from graftwork.registry.near import did_you_mean
from graftwork.registry.reference import Reference
from graftwork.registry.scope import Scope
from graftwork.registry.tables import adapter_aliases, adapter_versions, adapters, base_models

if TYPE_CHECKING:
    from graftwork.registry.manifest import Manifest

LATEST = "latest"
"""An alias nobody can set: it always means the newest version."""

ReadManifest = Callable[[str], "Manifest"]
_REMEDY = "graft list shows what there is."

# Built once: building them anew costs more than running them.
_parents = adapter_versions.alias("parents")
_later = adapter_versions.alias("later")
_joined = adapter_versions.join(adapters).join(base_models)
_IDS = sa.select(adapter_versions.c.id).select_from(_joined)
_ALIASES = sa.select(adapter_aliases.c.version_id, adapter_aliases.c.alias).order_by(adapter_aliases.c.alias)
_VERSIONS = (
    sa.select(
        adapter_versions,
        adapters.c.tenant,
        adapters.c.name,
        base_models.c.fingerprint.label("base"),
        reference_column().label("base_reference"),
        base_models.c.size_bytes.label("base_size_bytes"),
        _parents.c.digest.label("parent"),
    )
    .select_from(_joined.outerjoin(_parents, _parents.c.id == adapter_versions.c.parent_id))
    .order_by(adapters.c.tenant, adapters.c.name, adapter_versions.c.version)
)
NEWEST: sa.ColumnElement[bool] = ~sa.exists().where(
    _later.c.adapter_id == adapter_versions.c.adapter_id, _later.c.version > adapter_versions.c.version
)
"""Condition on `adapter_versions`: no version of that name is newer."""


@dataclass(frozen=True)
class AdapterVersion:
    """A published version of an adapter; it never changes.

    Attributes:
        tenant: whose it is.
        name: what it is called.
        version: its number; never given twice.
        digest: SHA-256 of its manifest: its identity.
        base: fingerprint of the base model.
        base_reference: `family/version/variant` of the base model.
        parent: digest of the adapter it descends from, or None.
        strategy: how it was made.
        labels: in the order of the head's rows.
        size_bytes: all files and the manifest.
        base_size_bytes: the base model's files.
        created_at: when it was published.
        record: what was noted beside the artifact and is no part of its identity, such as seconds it took.
        aliases: aliases that stand on it now.
    """

    tenant: str
    name: str
    version: int
    digest: str
    base: str
    base_reference: str
    parent: str | None
    strategy: str
    labels: tuple[str, ...]
    size_bytes: int
    base_size_bytes: int
    created_at: datetime
    record: dict[str, Any]
    aliases: tuple[str, ...]
    row: int = field(repr=False, compare=False)
    read_manifest: ReadManifest = field(repr=False, compare=False)

    @property
    def reference(self) -> str:
        """`tenant/name@version`."""
        return f"{self.tenant}/{self.name}@{self.version}"

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest, read from the blob store (and verified) at first use.

        Raises:
            BlobDamaged: if it is missing or damaged.
        """
        return self.read_manifest(self.digest)


def bare(reference: Reference) -> sa.ColumnElement[bool]:
    """Condition on `adapters`: this name."""
    return sa.and_(adapters.c.tenant == reference.tenant, adapters.c.name == reference.name)


def load_versions(
    connection: sa.Connection, scope: Scope, read_manifest: ReadManifest, *conditions: sa.ColumnElement[bool]
) -> list[AdapterVersion]:
    """The versions in scope that meet all conditions, by tenant, name and number; two queries however many."""
    chosen = _IDS.where(scope.condition(), *conditions)
    aliases: dict[int, list[str]] = defaultdict(list)
    for row in connection.execute(_ALIASES.where(adapter_aliases.c.version_id.in_(chosen))):
        aliases[row.version_id].append(row.alias)
    return [
        AdapterVersion(
            tenant=row.tenant,
            name=row.name,
            version=row.version,
            digest=row.digest,
            base=row.base,
            base_reference=row.base_reference,
            parent=row.parent,
            strategy=row.strategy,
            labels=tuple(row.labels),
            size_bytes=row.size_bytes,
            base_size_bytes=row.base_size_bytes,
            created_at=row.created_at,
            record=row.record,
            aliases=tuple(aliases[row.id]),
            row=row.id,
            read_manifest=read_manifest,
        )
        for row in connection.execute(_VERSIONS.where(scope.condition(), *conditions))
    ]


def find_version(
    connection: sa.Connection, reference: Reference, scope: Scope, read_manifest: ReadManifest
) -> AdapterVersion:
    """The version that `reference` names; without version and alias (or with `:latest`) the newest there is.

    Raises:
        NotFound: if there is none in scope; near names in scope are offered.
    """
    if reference.version is not None:
        condition = adapter_versions.c.version == reference.version
    elif reference.alias not in (None, LATEST):
        standing = sa.select(adapter_aliases.c.version_id).where(adapter_aliases.c.alias == reference.alias)
        condition = adapter_versions.c.id.in_(standing)
    else:
        condition = NEWEST
    found = load_versions(connection, scope, read_manifest, bare(reference), condition)
    if found:
        return found[0]
    raise _not_found(connection, reference, scope)


def find_adapter(connection: sa.Connection, reference: Reference, scope: Scope) -> int:
    """Row in `adapters` of a name that has at least one version.

    Raises:
        NotFound: if there is none in scope.
    """
    living = sa.exists().where(adapter_versions.c.adapter_id == adapters.c.id)
    row: int | None = connection.scalar(sa.select(adapters.c.id).where(bare(reference), scope.condition(), living))
    if row is None:
        raise no_adapter(connection, reference, scope)
    return row


def no_adapter(connection: sa.Connection, reference: Reference, scope: Scope) -> NotFound:
    """The error that says that a name has no versions in scope, with near names of the same scope."""
    living = sa.exists().where(adapter_versions.c.adapter_id == adapters.c.id)
    names = connection.scalars(sa.select(adapters.c.tenant + "/" + adapters.c.name).where(scope.condition(), living))
    return NotFound(f"no adapter {reference.bare!r}", remedy=did_you_mean(reference.bare, names.all(), _REMEDY))


def _not_found(connection: sa.Connection, reference: Reference, scope: Scope) -> NotFound:
    try:
        adapter = find_adapter(connection, reference, scope)
    except NotFound as error:
        return error
    numbers = sa.select(adapter_versions.c.version).where(adapter_versions.c.adapter_id == adapter)
    if reference.version is not None:
        numbers = numbers.order_by(adapter_versions.c.version.desc())
        shown = connection.scalars(numbers.limit(10)).all()
        return NotFound(
            f"adapter {reference.bare!r} has no version {reference.version}",
            remedy=f"Its newest version{' is' if len(shown) == 1 else 's are'} {', '.join(map(str, shown))}.",
        )
    names = connection.scalars(sa.select(adapter_aliases.c.alias).where(adapter_aliases.c.adapter_id == adapter)).all()
    there = f"Its aliases are {', '.join(sorted(names))}." if names else "It has no alias yet (graft alias sets one)."
    remedy = did_you_mean(reference.alias or "", names, there)
    return NotFound(f"adapter {reference.bare!r} has no alias {reference.alias!r}", remedy=remedy)
