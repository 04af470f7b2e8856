"""The tables, as the newest migration leaves them.

    base_models ──< base_names                     what a base is called
         │    └───< base_files ──< base_pieces     a file is its pieces, one after the other
         └──< adapter_versions >── adapters        a version of a name, on a base
                 │   │   └──< adapter_files        the artifact's files, manifest.json among them
                 │   └── parent_id                 the version it descends from
                 └──< adapter_aliases              `production`; alias_changes is its history

Digests in `base_pieces.digest` and `adapter_files.digest` are all that is alive in the blob store.
"""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Moment(sa.types.TypeDecorator[datetime]):
    """A point in time, always aware and in UTC.

    SQLite has no time zones: what it holds is UTC without saying so.
    """

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Refuse naive times: nobody could say what they meant."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive time cannot be stored")
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Give the zone back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_Digest = sa.String(64)
_Word = sa.String(63)

registry_state = sa.Table(
    "registry_state",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("writes", sa.BigInteger, nullable=False),
)
"""One row; a writer updates it first, and so holds the write lock until its transaction ends."""

base_models = sa.Table(
    "base_models",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("fingerprint", _Digest, nullable=False, unique=True),
    sa.Column("tokenizer", _Digest, nullable=False),
    sa.Column("family", _Word, nullable=False),
    sa.Column("version", _Word, nullable=False),
    sa.Column("variant", _Word, nullable=False),
    sa.Column("architecture", sa.String(32), nullable=False),
    sa.Column("domain", sa.String(32), nullable=False),
    sa.Column("parameters", sa.BigInteger, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("facts", sa.JSON, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.UniqueConstraint("family", "version", "variant"),
)

base_names = sa.Table(
    "base_names",
    metadata,
    sa.Column("name", _Word, primary_key=True),
    sa.Column("base_id", sa.ForeignKey(base_models.c.id), nullable=False, index=True),
    sa.Column("created_at", Moment, nullable=False),
)

base_files = sa.Table(
    "base_files",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("base_id", sa.ForeignKey(base_models.c.id), nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("sha256", _Digest, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("base_id", "path"),
)

base_pieces = sa.Table(
    "base_pieces",
    metadata,
    sa.Column("file_id", sa.ForeignKey(base_files.c.id), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("digest", _Digest, nullable=False, index=True),
    sa.Column("size", sa.BigInteger, nullable=False),
)

adapters = sa.Table(
    "adapters",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("tenant", _Word, nullable=False),
    sa.Column("name", _Word, nullable=False),
    sa.Column("last_version", sa.Integer, nullable=False),  # ever given out; never given again
    sa.Column("created_at", Moment, nullable=False),
    sa.UniqueConstraint("tenant", "name"),
)

adapter_versions = sa.Table(
    "adapter_versions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("adapter_id", sa.ForeignKey(adapters.c.id), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("digest", _Digest, nullable=False, index=True),
    sa.Column("base_id", sa.ForeignKey(base_models.c.id), nullable=False, index=True),
    sa.Column("parent_id", sa.ForeignKey("adapter_versions.id"), nullable=True, index=True),
    sa.Column("strategy", sa.String(63), nullable=False),
    sa.Column("labels", sa.JSON, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("record", sa.JSON, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.UniqueConstraint("adapter_id", "version"),
)

adapter_files = sa.Table(
    "adapter_files",
    metadata,
    sa.Column("version_id", sa.ForeignKey(adapter_versions.c.id), primary_key=True),
    sa.Column("path", sa.String(255), primary_key=True),
    sa.Column("digest", _Digest, nullable=False, index=True),
    sa.Column("size", sa.BigInteger, nullable=False),
)

adapter_aliases = sa.Table(
    "adapter_aliases",
    metadata,
    sa.Column("adapter_id", sa.ForeignKey(adapters.c.id), primary_key=True),
    sa.Column("alias", _Word, primary_key=True),
    sa.Column("version_id", sa.ForeignKey(adapter_versions.c.id), nullable=False, index=True),
)

alias_changes = sa.Table(
    "alias_changes",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("adapter_id", sa.ForeignKey(adapters.c.id), nullable=False, index=True),
    sa.Column("alias", _Word, nullable=False),
    sa.Column("old_version", sa.Integer, nullable=True),  # None: the alias was new
    sa.Column("new_version", sa.Integer, nullable=True),  # None: the alias was removed
    sa.Column("changed_at", Moment, nullable=False),
)

publish_keys = sa.Table(
    "publish_keys",
    metadata,
    sa.Column("adapter_id", sa.ForeignKey(adapters.c.id), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
)
