"""What can be proved from the database alone."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa

from graftwork.registry.fsck_content import Fault
from graftwork.registry.tables import adapter_aliases, adapter_versions, adapters, metadata


def check_rows(connection: sa.Connection) -> Iterator[Fault]:
    """Rows that refer to nothing, descend from nothing sound, or contradict each other."""
    for table in metadata.sorted_tables:
        for key in table.foreign_keys:
            yield from _unresolved(connection, key)
    yield from _broken_descent(connection)
    yield from _contradictions(connection)


def _unresolved(connection: sa.Connection, key: sa.ForeignKey) -> Iterator[Fault]:
    """A foreign key that the database should have enforced; it may not have been the database that wrote the file."""
    target = key.column.table.alias("target")
    resolved = sa.exists().where(target.c[key.column.name] == key.parent)
    lost = sa.select(sa.func.count()).select_from(key.parent.table).where(key.parent.is_not(None), ~resolved)
    count = connection.execute(lost).scalar_one()
    if count:
        where = f"{key.parent.table.name}.{key.parent.name}"
        yield Fault("row-unresolved", f"{count} rows of {where} refer to no {key.column.table.name}")


def _broken_descent(connection: sa.Connection) -> Iterator[Fault]:
    """A parent is there before its child, so its row number is smaller: where that holds there can be no cycle."""
    parent = adapter_versions.alias("parent")
    statement = (
        sa.select(adapters.c.tenant, adapters.c.name, adapter_versions.c.version, adapter_versions.c.id)
        .add_columns(parent.c.id.label("parent_id"), parent.c.base_id.label("parent_base"), adapter_versions.c.base_id)
        .select_from(
            adapter_versions.join(adapters).join(parent, parent.c.id == adapter_versions.c.parent_id, isouter=True)
        )
        .where(adapter_versions.c.parent_id.is_not(None))
        .where(
            sa.or_(
                parent.c.id.is_(None),
                parent.c.id >= adapter_versions.c.id,
                parent.c.base_id != adapter_versions.c.base_id,
            )
        )
    )
    for row in connection.execute(statement):
        name = f"{row.tenant}/{row.name}@{row.version}"
        if row.parent_id is None:
            yield Fault("lineage-broken", f"{name}: its parent is missing")
        elif row.parent_id >= row.id:
            yield Fault("lineage-broken", f"{name}: its parent is younger, or descends from it")
        else:
            yield Fault("lineage-broken", f"{name}: its parent is made for another base model")


def _contradictions(connection: sa.Connection) -> Iterator[Fault]:
    strays = (
        sa.select(adapter_aliases.c.alias)
        .join_from(adapter_aliases, adapter_versions)
        .where(adapter_aliases.c.adapter_id != adapter_versions.c.adapter_id)
    )
    for alias in connection.scalars(strays):
        yield Fault("row-unresolved", f"alias {alias!r} stands on a version of another adapter")
    numbers = (
        sa.select(adapters.c.tenant, adapters.c.name)
        .join_from(adapters, adapter_versions)
        .where(adapter_versions.c.version > adapters.c.last_version)
        .distinct()
    )
    for row in connection.execute(numbers):
        yield Fault("row-unresolved", f"{row.tenant}/{row.name} could give out a version number again")
