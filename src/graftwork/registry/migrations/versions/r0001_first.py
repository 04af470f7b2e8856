"""The first schema.

Revision ID: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table, and the one row whose update is the write lock."""
    op.create_table(
        "adapters",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("last_version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_adapters"),
        sa.UniqueConstraint("tenant", "name", name="uq_adapters_tenant_name"),
    )
    op.create_table(
        "base_models",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("tokenizer", sa.String(length=64), nullable=False),
        sa.Column("family", sa.String(length=63), nullable=False),
        sa.Column("version", sa.String(length=63), nullable=False),
        sa.Column("variant", sa.String(length=63), nullable=False),
        sa.Column("architecture", sa.String(length=32), nullable=False),
        sa.Column("domain", sa.String(length=32), nullable=False),
        sa.Column("parameters", sa.BigInteger(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_base_models"),
        sa.UniqueConstraint("family", "version", "variant", name="uq_base_models_family_version_variant"),
        sa.UniqueConstraint("fingerprint", name="uq_base_models_fingerprint"),
    )
    op.create_table(
        "registry_state",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("writes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_registry_state"),
    )
    op.create_table(
        "adapter_versions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("adapter_id", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("base_id", sa.Integer(), nullable=False),
        sa.Column("parent_id", sa.Integer(), nullable=True),
        sa.Column("strategy", sa.String(length=63), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("record", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name="fk_adapter_versions_adapter_id_adapters"),
        sa.ForeignKeyConstraint(["base_id"], ["base_models.id"], name="fk_adapter_versions_base_id_base_models"),
        sa.ForeignKeyConstraint(
            ["parent_id"], ["adapter_versions.id"], name="fk_adapter_versions_parent_id_adapter_versions"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_adapter_versions"),
        sa.UniqueConstraint("adapter_id", "version", name="uq_adapter_versions_adapter_id_version"),
    )
    op.create_index("ix_adapter_versions_base_id", "adapter_versions", ["base_id"], unique=False)
    op.create_index("ix_adapter_versions_digest", "adapter_versions", ["digest"], unique=False)
    op.create_index("ix_adapter_versions_parent_id", "adapter_versions", ["parent_id"], unique=False)
    op.create_table(
        "alias_changes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("adapter_id", sa.Integer(), nullable=False),
        sa.Column("alias", sa.String(length=63), nullable=False),
        sa.Column("old_version", sa.Integer(), nullable=True),
        sa.Column("new_version", sa.Integer(), nullable=True),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name="fk_alias_changes_adapter_id_adapters"),
        sa.PrimaryKeyConstraint("id", name="pk_alias_changes"),
    )
    op.create_index("ix_alias_changes_adapter_id", "alias_changes", ["adapter_id"], unique=False)
    op.create_table(
        "base_files",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("base_id", sa.Integer(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["base_id"], ["base_models.id"], name="fk_base_files_base_id_base_models"),
        sa.PrimaryKeyConstraint("id", name="pk_base_files"),
        sa.UniqueConstraint("base_id", "path", name="uq_base_files_base_id_path"),
    )
    op.create_table(
        "base_names",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("base_id", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["base_id"], ["base_models.id"], name="fk_base_names_base_id_base_models"),
        sa.PrimaryKeyConstraint("name", name="pk_base_names"),
    )
    op.create_index("ix_base_names_base_id", "base_names", ["base_id"], unique=False)
    op.create_table(
        "publish_keys",
        sa.Column("adapter_id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name="fk_publish_keys_adapter_id_adapters"),
        sa.PrimaryKeyConstraint("adapter_id", "key", name="pk_publish_keys"),
    )
    op.create_table(
        "adapter_aliases",
        sa.Column("adapter_id", sa.Integer(), nullable=False),
        sa.Column("alias", sa.String(length=63), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name="fk_adapter_aliases_adapter_id_adapters"),
        sa.ForeignKeyConstraint(
            ["version_id"], ["adapter_versions.id"], name="fk_adapter_aliases_version_id_adapter_versions"
        ),
        sa.PrimaryKeyConstraint("adapter_id", "alias", name="pk_adapter_aliases"),
    )
    op.create_index("ix_adapter_aliases_version_id", "adapter_aliases", ["version_id"], unique=False)
    op.create_table(
        "adapter_files",
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("path", sa.String(length=255), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["adapter_versions.id"], name="fk_adapter_files_version_id_adapter_versions"
        ),
        sa.PrimaryKeyConstraint("version_id", "path", name="pk_adapter_files"),
    )
    op.create_index("ix_adapter_files_digest", "adapter_files", ["digest"], unique=False)
    op.create_table(
        "base_pieces",
        sa.Column("file_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["file_id"], ["base_files.id"], name="fk_base_pieces_file_id_base_files"),
        sa.PrimaryKeyConstraint("file_id", "position", name="pk_base_pieces"),
    )
    op.create_index("ix_base_pieces_digest", "base_pieces", ["digest"], unique=False)
    state = sa.table("registry_state", sa.column("id", sa.Integer), sa.column("writes", sa.BigInteger))
    op.bulk_insert(state, [{"id": 1, "writes": 0}])
