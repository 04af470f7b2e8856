"""Deleting the blobs that nothing refers to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from graftwork.errors import SettingsInvalid
from graftwork.registry.blobs import BlobStore, StoredBlob
from graftwork.registry.database import Database
from graftwork.registry.references import referenced

_AT_ONCE = 200
"""Blobs deleted in one turn of the write lock: nobody waits long for it."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection deleted, or would have.

    Attributes:
        blobs: blobs that nothing referred to.
        bytes: their bytes.
        leftovers: temporary files of killed writers, and quarantined bytes.
        leftover_bytes: their bytes.
        young: blobs that nothing referred to and that stay, because they are younger than the grace period.
        dry_run: True when nothing was deleted.
    """

    blobs: int
    bytes: int
    leftovers: int
    leftover_bytes: int
    young: int
    dry_run: bool


def collect_garbage(database: Database, blobs: BlobStore, *, grace: timedelta, dry_run: bool = False) -> Collected:
    """Delete blobs that nothing refers to and that were last put at least `grace` ago.

    It may run beside publishing, even with no grace at all: it deletes only while it holds the write lock, and
    publishing looks once more, under the same lock, that its blobs are there. The grace period saves a publisher from
    having to store its blobs twice; that nothing alive is deleted does not rest on it, nor on any clock.

    Args:
        database: what is alive.
        blobs: where to delete.
        grace: least age.
        dry_run: only tell what would be deleted.

    Raises:
        SettingsInvalid: if `grace` is negative.
    """
    if grace < timedelta():
        raise SettingsInvalid("the grace period of a collection cannot be negative", remedy="Give 0 or more.")
    stored = list(blobs.iterate())
    with database.read() as connection:
        alive = referenced(connection, [blob.digest for blob in stored])
    unused = [blob for blob in stored if blob.digest not in alive]
    old = [blob for blob in unused if blob.age >= grace]
    young = len(unused) - len(old)
    deleted = old if dry_run else _delete(database, blobs, old, grace)
    leftovers = [leftover for leftover in blobs.leftovers(grace) if leftover.abandoned]
    if not dry_run:
        for leftover in leftovers:
            blobs.sweep(leftover)
    return Collected(
        blobs=len(deleted),
        bytes=sum(blob.size for blob in deleted),
        leftovers=len(leftovers),
        leftover_bytes=sum(leftover.size for leftover in leftovers),
        young=young,
        dry_run=dry_run,
    )


def _delete(database: Database, blobs: BlobStore, unused: list[StoredBlob], grace: timedelta) -> list[StoredBlob]:
    deleted = []
    for start in range(0, len(unused), _AT_ONCE):
        part = unused[start : start + _AT_ONCE]
        with database.write() as connection:
            alive = referenced(connection, [blob.digest for blob in part])
            for blob in part:
                age = blobs.age(blob.digest)
                if blob.digest not in alive and age is not None and age >= grace:
                    blobs.delete(blob.digest)
                    deleted.append(blob)
    return deleted
