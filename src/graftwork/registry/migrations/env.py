"""Run by Alembic: it works on the connection, and inside the transaction, that `graftwork.registry.schema` opened."""

from __future__ import annotations

from alembic import context

from graftwork.registry.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
