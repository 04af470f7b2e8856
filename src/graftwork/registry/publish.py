"""The one transaction that makes a version visible."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from graftwork.errors import ArtifactInvalid, BaseMismatch, Conflict, NotFound, RequestInvalid
from graftwork.registry.artifact import MANIFEST, Artifact
from graftwork.registry.blobs import BlobStore
from graftwork.registry.chain import MOST_ANCESTORS, check_strategies, too_deep
from graftwork.registry.manifest import Manifest
from graftwork.registry.reference import Reference
from graftwork.registry.scope import Scope
from graftwork.registry.tables import adapter_files, adapter_versions, adapters, base_models, publish_keys
from graftwork.registry.versions import bare

_KEY_LENGTH = 255


@dataclass(frozen=True)
class Publication:
    """What is to be published, and on which conditions.

    Attributes:
        reference: the name.
        artifact: the adapter, checked already.
        record: what is noted beside it.
        expected_latest: newest version there must be, 0 for none; None for whatever.
        key: idempotency key, or None.
        scope: whose things the publisher sees.
    """

    reference: Reference
    artifact: Artifact
    record: dict[str, Any]
    expected_latest: int | None
    key: str | None
    scope: Scope

    def __post_init__(self) -> None:
        if self.key is not None and not (0 < len(self.key) <= _KEY_LENGTH and self.key.isprintable()):
            raise RequestInvalid(
                f"an idempotency key has 1 to {_KEY_LENGTH} printable characters", remedy="Use a UUID, for example."
            )
        try:
            json.dumps(self.record, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ArtifactInvalid(
                f"the record beside the adapter is not JSON: {error}", remedy="Note only texts, numbers and lists."
            ) from error

    @property
    def blobs(self) -> dict[str, bytes]:
        """Every file by name, the manifest among them."""
        return {MANIFEST: self.artifact.manifest_bytes, **self.artifact.files}


def already_published(connection: sa.Connection, publication: Publication) -> int | None:
    """Version that the same key made before, under the same name; None when it is new.

    Raises:
        Conflict: if that version was removed since.
    """
    if publication.key is None:
        return None
    statement = (
        sa.select(publish_keys.c.version, adapter_versions.c.id)
        .join_from(publish_keys, adapters)
        .outerjoin(
            adapter_versions,
            sa.and_(
                adapter_versions.c.adapter_id == publish_keys.c.adapter_id,
                adapter_versions.c.version == publish_keys.c.version,
            ),
        )
        .where(bare(publication.reference), publish_keys.c.key == publication.key)
    )
    row = connection.execute(statement).one_or_none()
    if row is None:
        return None
    if row.id is None:
        raise Conflict(
            f"this key published {publication.reference.bare}@{row.version}, which was removed since",
            remedy="Use a new idempotency key to publish again.",
        )
    return int(row.version)


def check_lineage(connection: sa.Connection, manifest: Manifest, scope: Scope) -> tuple[int, int | None]:
    """Rows of the base model and of the parent that a manifest names.

    Raises:
        NotFound: if the base model, or the parent, is not there.
        BaseMismatch: if the base has another tokenizer, or the parent another base.
        ArtifactInvalid: if the two cannot be chained, or the chain is too long.
    """
    statement = sa.select(base_models.c.id, base_models.c.tokenizer).where(base_models.c.fingerprint == manifest.base)
    base = connection.execute(statement).one_or_none()
    if base is None:
        raise NotFound(
            f"the base model {manifest.base[:16]} that the adapter was made for is not in the registry",
            remedy="Add it first (graft base add).",
        )
    if base.tokenizer != manifest.tokenizer:
        raise BaseMismatch(
            f"the adapter was made with tokenizer {manifest.tokenizer[:16]}, its base model has {base.tokenizer[:16]}",
            remedy="Train it on the base model as it is in the registry.",
        )
    if manifest.parent is None:
        return base.id, None
    held = (
        sa.select(adapter_versions.c.id, adapter_versions.c.base_id, adapter_versions.c.strategy)
        .join_from(adapter_versions, adapters)
        .where(adapter_versions.c.digest == manifest.parent, scope.condition())
        .order_by(adapter_versions.c.id.desc())
    )
    parent = connection.execute(held.limit(1)).one_or_none()
    if parent is None:
        raise NotFound(
            f"the adapter {manifest.parent[:16]} that this one descends from is not in the registry",
            remedy="Publish the parent first, or train on the base model.",
        )
    if parent.base_id != base.id:
        raise BaseMismatch(
            f"the adapter descends from {manifest.parent[:16]}, which was made for another base model",
            remedy="Train on the parent's base model.",
        )
    check_strategies(manifest.strategy, parent.strategy)
    _check_depth(connection, parent.id)
    return base.id, parent.id


def _check_depth(connection: sa.Connection, parent: int) -> None:
    above: int | None = parent
    for _ in range(MOST_ANCESTORS):
        if above is None:
            return
        above = connection.scalar(sa.select(adapter_versions.c.parent_id).where(adapter_versions.c.id == above))
    if above is not None:
        raise too_deep()


def check_latest(connection: sa.Connection, reference: Reference, expected: int) -> None:
    """Check that the newest version of a name is the expected one; 0 for a name that has none.

    Raises:
        Conflict: if it is not.
    """
    versions = sa.select(sa.func.max(adapter_versions.c.version)).join_from(adapter_versions, adapters)
    newest = connection.scalar(versions.where(bare(reference)))
    if expected != (newest or 0):
        now_there = f"its newest version is {newest}" if newest else "it has no version"
        raise Conflict(
            f"{reference.bare} should have been at version {expected}, but {now_there}",
            remedy="Somebody else published first: look at what is there, then publish again.",
        )


def insert_version(connection: sa.Connection, publication: Publication, digests: Mapping[str, str]) -> int:
    """Insert the next version; returns its number. Its blobs must be there, and the write lock held.

    Args:
        connection: one that holds the write lock.
        publication: what to publish.
        digests: SHA-256 of each file, by name.

    Raises:
        Conflict: if the newest version is not the expected one.
        NotFound: if the base or the parent is missing.
        BaseMismatch: if they do not belong together.
    """
    artifact = publication.artifact
    base, parent = check_lineage(connection, artifact.manifest, publication.scope)
    now = datetime.now(UTC)
    adapter = _adapter_row(connection, publication.reference, now)
    if publication.expected_latest is not None:
        check_latest(connection, publication.reference, publication.expected_latest)
    this = adapters.c.id == adapter
    connection.execute(sa.update(adapters).where(this).values(last_version=adapters.c.last_version + 1))
    version = connection.execute(sa.select(adapters.c.last_version).where(this)).scalar_one()
    row = {
        "adapter_id": adapter,
        "version": version,
        "digest": artifact.digest,
        "base_id": base,
        "parent_id": parent,
        "strategy": artifact.manifest.strategy,
        "labels": list(artifact.manifest.labels),
        "size_bytes": artifact.size_bytes,
        "record": publication.record,
        "created_at": now,
    }
    inserted = connection.execute(sa.insert(adapter_versions).values(row).returning(adapter_versions.c.id)).scalar_one()
    files = [
        {"version_id": inserted, "path": path, "digest": digests[path], "size": len(content)}
        for path, content in publication.blobs.items()
    ]
    connection.execute(sa.insert(adapter_files), files)
    if publication.key is not None:
        key = {"adapter_id": adapter, "key": publication.key, "version": version, "created_at": now}
        connection.execute(sa.insert(publish_keys).values(key))
    return int(version)


def store_missing(blobs: BlobStore, publication: Publication, digests: Mapping[str, str]) -> None:
    """Put the files that are not there any more. While the write lock is held no collection can take them again."""
    for path, content in publication.blobs.items():
        if not blobs.exists(digests[path], size=len(content)):
            blobs.put(content, digest=digests[path])


def _adapter_row(connection: sa.Connection, reference: Reference, now: datetime) -> int:
    row: int | None = connection.scalar(sa.select(adapters.c.id).where(bare(reference)))
    if row is not None:
        return row
    values = {"tenant": reference.tenant, "name": reference.name, "last_version": 0, "created_at": now}
    return int(connection.execute(sa.insert(adapters).values(values).returning(adapters.c.id)).scalar_one())
