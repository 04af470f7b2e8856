"""Proof that the registry is whole: every row resolves, every byte is the right one, no line of descent is broken."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import timedelta

import sqlalchemy as sa

from graftwork.data.findings import Finding
from graftwork.registry.artifact import DEFAULT_LIMITS, ArtifactLimits
from graftwork.registry.blobs import BlobStore
from graftwork.registry.database import Database
from graftwork.registry.fsck_content import Fault, check_file, check_version, load_files, load_versions
from graftwork.registry.fsck_rows import check_rows
from graftwork.registry.references import referenced
from graftwork.registry.tables import adapter_versions, base_models

_EXAMPLES = 5
_TOLD = {
    "row-unresolved": ("rows of the database contradict each other", "Restore the database from a backup."),
    "lineage-broken": ("adapters have no sound line of descent", "Restore the database from a backup."),
    "blob-missing": ("stored files are incomplete", "Add the base model or publish the adapter again: that heals it."),
    "blob-damaged": ("stored files are damaged", "Add the base model or publish the adapter again: that heals it."),
    "adapter-unsound": ("adapters are not what the database says", "Publish them again, or remove them."),
}


def fsck(
    database: Database, blobs: BlobStore, *, hash_content: bool = True, limits: ArtifactLimits = DEFAULT_LIMITS
) -> list[Finding]:
    """Check the whole registry; nothing is changed, and it may run beside everything else.

    Args:
        database: what there should be.
        blobs: what there is.
        hash_content: read every byte, put every file together and check every adapter; without it only that blobs
            are there with their sizes.
        limits: what an adapter may cost.

    Returns:
        Errors by kind, each with its count and a few examples; then, as information, what nothing refers to. A whole
        registry without leftovers gives an empty list.

    Raises:
        StorageError: if the database or the blob store does not answer.
    """
    with database.read() as connection:
        faults = list(check_rows(connection))
        files, versions = load_files(connection), load_versions(connection)
    stored = {blob.digest: blob.size for blob in blobs.iterate()}
    for file in files:
        faults += check_file(file, stored, blobs, hash_content=hash_content)
    for version in versions:
        faults += check_version(version, stored, blobs, limits, hash_content=hash_content)
    with database.read() as connection:
        faults = list(_still_there(connection, faults))
        used = referenced(connection, stored)
    return [*_errors(faults), *_unused(blobs, {digest: size for digest, size in stored.items() if digest not in used})]


def _still_there(connection: sa.Connection, faults: Iterable[Fault]) -> Iterator[Fault]:
    """Without the faults of what was removed while we looked: its blobs may rightly be gone."""
    living = {
        "base": set(connection.scalars(sa.select(base_models.c.id))),
        "adapter": set(connection.scalars(sa.select(adapter_versions.c.id))),
    }
    return (fault for fault in faults if fault.owner is None or fault.owner[1] in living[fault.owner[0]])


def _errors(faults: Iterable[Fault]) -> list[Finding]:
    by_code: dict[str, list[str]] = defaultdict(list)
    for fault in faults:
        by_code[fault.code].append(fault.what)
    return [
        Finding(
            code=code,
            severity="error",
            message=f"{_TOLD[code][0]}: {len(what)}",
            count=len(what),
            examples=tuple(what[:_EXAMPLES]),
            remedy=_TOLD[code][1],
        )
        for code, what in by_code.items()
    ]


def _unused(blobs: BlobStore, orphans: dict[str, int]) -> list[Finding]:
    findings = []
    if orphans:
        findings.append(
            Finding(
                code="blob-orphaned",
                severity="info",
                message=f"{len(orphans)} blobs of {sum(orphans.values())} bytes belong to nothing",
                count=len(orphans),
                examples=tuple(sorted(orphans)[:_EXAMPLES]),
                remedy="graft gc deletes them.",
            )
        )
    leftovers = list(blobs.leftovers(timedelta()))
    if leftovers:
        findings.append(
            Finding(
                code="leftovers",
                severity="info",
                message=f"{len(leftovers)} temporary or quarantined files of {sum(f.size for f in leftovers)} bytes",
                count=len(leftovers),
                examples=tuple(leftover.path for leftover in leftovers[:_EXAMPLES]),
                remedy="graft gc deletes them.",
            )
        )
    return findings
