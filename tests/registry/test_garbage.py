from __future__ import annotations

import os
from collections.abc import Collection
from datetime import timedelta

import pytest
import sqlalchemy as sa

from graftwork.errors import SettingsInvalid
from graftwork.registry import garbage
from graftwork.registry.base_rows import BaseModel
from graftwork.registry.blobs import BlobInfo, BlobStore
from graftwork.registry.fsck import fsck
from graftwork.registry.garbage import Collected, collect_garbage
from graftwork.registry.references import referenced
from tests.registry.builders import Registry, make_artifact, sha256

NOW = timedelta()
HOUR = timedelta(hours=1)


def test_only_what_nothing_refers_to_is_deleted(registry: Registry, base: BaseModel) -> None:
    kept = registry.catalog.publish("acme/news", make_artifact(base))
    registry.catalog.publish("acme/mood", make_artifact(base, seed=1))
    alive = {blob.digest for blob in registry.blobs.iterate()}
    gone = registry.catalog.publish("acme/gone", make_artifact(base, seed=2))
    dead = [blob for blob in registry.blobs.iterate() if blob.digest not in alive]
    registry.catalog.remove("acme/gone@1")
    expected = Collected(len(dead), sum(b.size for b in dead), 0, 0, young=0, dry_run=True)
    assert len(dead) == 3  # adapter_config.json is the same as the others'
    assert collect_garbage(registry.database, registry.blobs, grace=NOW, dry_run=True) == expected
    assert registry.blobs.exists(gone.digest)
    assert collect_garbage(registry.database, registry.blobs, grace=NOW).blobs == 3
    assert {blob.digest for blob in registry.blobs.iterate()} == alive
    assert registry.catalog.read(kept).digest == kept.digest
    assert fsck(registry.database, registry.blobs) == []


def test_grace_saves_the_young(registry: Registry, base: BaseModel) -> None:
    old, young = registry.blobs.put(b"old").digest, registry.blobs.put(b"young").digest
    an_hour_ago = registry.blob_path(old).stat().st_mtime - 3601
    os.utime(registry.blob_path(old), (an_hour_ago, an_hour_ago))
    collected = collect_garbage(registry.database, registry.blobs, grace=HOUR)
    assert (collected.blobs, collected.bytes, collected.young) == (1, 3, 1)
    assert not registry.blobs.exists(old)
    assert registry.blobs.exists(young)


def test_a_clock_that_was_set_back_deletes_nothing_young(registry: Registry) -> None:
    digest = registry.blobs.put(b"future").digest
    future = registry.blob_path(digest).stat().st_mtime + 7200
    os.utime(registry.blob_path(digest), (future, future))
    assert collect_garbage(registry.database, registry.blobs, grace=timedelta(seconds=1)).young == 1
    assert collect_garbage(registry.database, registry.blobs, grace=NOW).blobs == 1


def test_what_was_put_again_since_the_listing_is_spared(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = registry.blobs.put(b"old").digest
    os.utime(registry.blob_path(digest), (1, 1))

    def put_meanwhile(connection: sa.Connection, digests: Collection[str]) -> set[str]:
        registry.blobs.put(b"old")
        return referenced(connection, digests)

    monkeypatch.setattr(garbage, "referenced", put_meanwhile)
    assert collect_garbage(registry.database, registry.blobs, grace=HOUR).blobs == 0
    assert registry.blobs.exists(digest)


def test_a_collection_between_storing_and_publishing_takes_nothing_alive(
    registry: Registry, base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = BlobStore.put

    def put_then_collect(self: BlobStore, source: bytes, *, digest: str | None = None) -> BlobInfo:
        info = real(self, source, digest=digest)
        if digest is None:  # not again while the write lock is held: a collection would wait for it
            assert collect_garbage(registry.database, registry.blobs, grace=NOW).blobs == 1
        return info

    monkeypatch.setattr(BlobStore, "put", put_then_collect)
    version = registry.catalog.publish("acme/news", make_artifact(base))
    assert registry.catalog.read(version).digest == version.digest
    assert fsck(registry.database, registry.blobs) == []


def test_quarantine_is_emptied_after_its_grace(registry: Registry) -> None:
    digest = registry.blobs.put(b"hello").digest
    registry.blob_path(digest).write_bytes(b"hullo")
    assert not registry.blobs.is_sound(digest)
    with pytest.raises(Exception, match="damaged"):
        registry.blobs.get(digest)
    assert collect_garbage(registry.database, registry.blobs, grace=HOUR).leftovers == 0
    collected = collect_garbage(registry.database, registry.blobs, grace=NOW)
    assert (collected.leftovers, collected.leftover_bytes, collected.blobs) == (1, 5, 0)


def test_grace_cannot_be_negative(registry: Registry) -> None:
    with pytest.raises(SettingsInvalid):
        collect_garbage(registry.database, registry.blobs, grace=-HOUR)


def test_many_blobs_are_deleted_in_several_turns(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "_AT_ONCE", 2)
    digests = [registry.blobs.put(bytes([number])).digest for number in range(5)]
    assert collect_garbage(registry.database, registry.blobs, grace=NOW).blobs == 5
    assert not any(map(registry.blobs.exists, digests))
    assert sha256(b"\x00") == digests[0]
