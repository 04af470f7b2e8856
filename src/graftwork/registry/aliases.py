"""Words that stand on a version of an adapter and can be moved: `acme/news:production`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from graftwork.errors import Conflict, NotFound, ReferenceMalformed
from graftwork.registry.reference import Reference, check_word
from graftwork.registry.tables import adapter_aliases, adapter_versions, alias_changes
from graftwork.registry.versions import LATEST


@dataclass(frozen=True, slots=True)
class AliasChange:
    """One move of an alias.

    Attributes:
        alias: the word.
        old: version it stood on before, or None when it was new.
        new: version it stood on afterwards, or None when it was removed.
        changed_at: when.
    """

    alias: str
    old: int | None
    new: int | None
    changed_at: datetime


def check_alias(alias: str) -> str:
    """Return `alias` if it can be set.

    Raises:
        ReferenceMalformed: if it cannot.
    """
    if alias == LATEST:
        raise ReferenceMalformed(
            f"{LATEST!r} always means the newest version and cannot be set", remedy="Choose another alias."
        )
    return check_word("alias", alias)


def move_alias(
    connection: sa.Connection, adapter: int, alias: str, target: tuple[int, int], *, expected: int | None
) -> None:
    """Let an alias stand on a version, and note it in the history if that is a change.

    Args:
        connection: one that holds the write lock.
        adapter: row of the name.
        alias: the word.
        target: row and number of the version.
        expected: version it must stand on now, 0 for none; None for whatever.

    Raises:
        Conflict: if it stands elsewhere than expected.
    """
    row, version = target
    old = standing_on(connection, adapter, alias)
    if expected is not None and expected != (old or 0):
        now = f"stands on version {old}" if old else "does not exist"
        raise Conflict(
            f"alias {alias!r} {now}, not on version {expected} as expected",
            remedy="Somebody moved it: look at it again, then decide.",
        )
    if old == version:
        return
    this = (adapter_aliases.c.adapter_id == adapter, adapter_aliases.c.alias == alias)
    if old is None:
        connection.execute(sa.insert(adapter_aliases).values(adapter_id=adapter, alias=alias, version_id=row))
    else:
        connection.execute(sa.update(adapter_aliases).where(*this).values(version_id=row))
    _note(connection, adapter, AliasChange(alias, old, version, datetime.now(UTC)))


def drop_alias(connection: sa.Connection, adapter: int, reference: Reference, alias: str) -> None:
    """Remove an alias and note it in the history.

    Raises:
        NotFound: if there is none.
    """
    old = standing_on(connection, adapter, alias)
    if old is None:
        raise NotFound(f"adapter {reference.bare!r} has no alias {alias!r}", remedy="graft show lists its aliases.")
    this = (adapter_aliases.c.adapter_id == adapter, adapter_aliases.c.alias == alias)
    connection.execute(sa.delete(adapter_aliases).where(*this))
    _note(connection, adapter, AliasChange(alias, old, None, datetime.now(UTC)))


def standing_on(connection: sa.Connection, adapter: int, alias: str) -> int | None:
    """Version an alias stands on; None when it does not exist."""
    this = (adapter_aliases.c.adapter_id == adapter, adapter_aliases.c.alias == alias)
    statement = sa.select(adapter_versions.c.version).join_from(adapter_aliases, adapter_versions).where(*this)
    version: int | None = connection.scalar(statement)
    return version


def history(connection: sa.Connection, adapter: int, alias: str | None) -> list[AliasChange]:
    """Every move of a name's aliases (or of one of them), oldest first."""
    statement = sa.select(alias_changes).where(alias_changes.c.adapter_id == adapter).order_by(alias_changes.c.id)
    if alias is not None:
        statement = statement.where(alias_changes.c.alias == alias)
    return [
        AliasChange(row.alias, row.old_version, row.new_version, row.changed_at)
        for row in connection.execute(statement)
    ]


def _note(connection: sa.Connection, adapter: int, change: AliasChange) -> None:
    row = {
        "adapter_id": adapter,
        "alias": change.alias,
        "old_version": change.old,
        "new_version": change.new,
        "changed_at": change.changed_at,
    }
    connection.execute(sa.insert(alias_changes).values(row))
