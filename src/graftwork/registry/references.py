"""Which blobs the database refers to: these are alive, and no others."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from graftwork.registry.tables import adapter_files, base_pieces

_AT_ONCE = 500


def referenced(connection: sa.Connection, digests: Collection[str]) -> set[str]:
    """Those of `digests` that some base model or adapter refers to."""
    found: set[str] = set()
    wanted = sorted(digests)
    for start in range(0, len(wanted), _AT_ONCE):
        part = wanted[start : start + _AT_ONCE]
        for column in (base_pieces.c.digest, adapter_files.c.digest):
            found.update(connection.scalars(sa.select(column).where(column.in_(part)).distinct()))
    return found
