"""Bring a database to the schema this version of the code speaks."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from graftwork.errors import StorageError

HEAD = "0001"
"""The newest revision in `migrations/versions`; a test compares the two. Known without importing Alembic, which
takes longer than everything else that opening a database does."""

_REVISIONS = sa.table("alembic_version", sa.column("version_num", sa.String(32)))
_POSTGRESQL_LOCK = 0x67726166


def revision(connection: sa.Connection) -> str | None:
    """Revision of the schema in this database; None when it has none yet."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.scalar(sa.select(_REVISIONS.c.version_num))


def upgrade(connection: sa.Connection) -> None:
    """Run the missing migrations inside the caller's transaction, one process at a time.

    Raises:
        StorageError: if the schema is of a version that this code does not know.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_POSTGRESQL_LOCK)))
    found = revision(connection)
    if found == HEAD:
        return
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise StorageError(
            f"the database has schema {found!r}; this version of graftwork knows it up to {HEAD!r}",
            remedy="It was written by a newer version of graftwork: upgrade this installation.",
        )
    command.upgrade(config, "head")
