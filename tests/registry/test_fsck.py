from __future__ import annotations

import sqlite3

import pytest
import sqlalchemy as sa

from graftwork.data.findings import Finding
from graftwork.registry import fsck as fsck_module
from graftwork.registry.base_rows import BaseModel
from graftwork.registry.fsck import fsck
from graftwork.registry.fsck_content import Version, load_versions
from tests.registry.builders import Registry, base_tensors, make_artifact, sha256


def check(registry: Registry, *, hash_content: bool = True) -> dict[str, Finding]:
    found = fsck(registry.database, registry.blobs, hash_content=hash_content)
    findings = {finding.code: finding for finding in found}
    assert all(finding.count > 0 and finding.remedy for finding in findings.values())
    return findings


def tamper(registry: Registry, *statements: str) -> None:
    """Change the database as a damaged disk or a careless hand would: past all its rules."""
    raw = sqlite3.connect(registry.home / "registry.db")
    for statement in statements:
        raw.execute(statement)
    raw.commit()
    raw.close()


@pytest.fixture
def full(registry: Registry, base: BaseModel) -> Registry:
    registry.add_base("other", seed=1)
    parent = registry.catalog.publish("acme/news", make_artifact(base))
    registry.catalog.publish("acme/news", make_artifact(base, seed=1, parent=parent.digest))
    registry.catalog.publish("globex/mood", make_artifact(base, seed=2, delta=False))
    registry.catalog.set_alias("acme/news", "production", 1)
    return registry


def test_a_whole_registry_is_clean(full: Registry) -> None:
    assert check(full) == check(full, hash_content=False) == {}


def test_what_nothing_refers_to_is_information(full: Registry) -> None:
    full.blobs.put(b"orphan")
    staging = full.home / "blobs" / "staging"
    (staging / "leftover").write_bytes(b"123")
    found = check(full)
    assert {code: (f.severity, f.count) for code, f in found.items()} == {
        "blob-orphaned": ("info", 1),
        "leftovers": ("info", 1),
    }
    assert found["blob-orphaned"].examples == (sha256(b"orphan"),)


@pytest.mark.parametrize("hash_content", [True, False])
def test_a_missing_blob_names_all_that_need_it(full: Registry, hash_content: bool) -> None:
    head = sha256(make_artifact("0" * 64, seed=1).files["head.safetensors"])
    weights = sha256(base_tensors()["layer.0.weight"].tobytes())
    full.blobs.delete(head)
    full.blobs.delete(weights)
    found = check(full, hash_content=hash_content)
    assert found.keys() == {"blob-missing"}
    assert found["blob-missing"].examples == (
        f"base model tiny/1/base, model.safetensors: blob {weights} is missing",
        f"adapter acme/news@2: blob {head} is missing",
    )


def test_a_flipped_bit_is_found_by_reading_only(full: Registry) -> None:
    for digest in (sha256(base_tensors()["layer.0.weight"].tobytes()), full.catalog.resolve("acme/news@1").digest):
        content = bytearray(full.blob_path(digest).read_bytes())
        content[3] ^= 4
        full.blob_path(digest).write_bytes(content)
    assert check(full, hash_content=False) == {}
    found = check(full)
    assert found.keys() == {"blob-damaged"}
    assert found["blob-damaged"].count == 2
    assert check(full) == found, "nothing is changed by looking"


def test_a_cut_blob_is_found_without_reading(full: Registry) -> None:
    digest = full.catalog.resolve("globex/mood").digest
    full.blob_path(digest).write_bytes(b"")
    assert check(full, hash_content=False)["blob-damaged"].count == 1


@pytest.mark.parametrize(
    ("statements", "code", "example"),
    [
        (["UPDATE adapter_versions SET base_id = 99 WHERE id = 3"], "row-unresolved", "adapter_versions.base_id"),
        (["DELETE FROM adapter_files WHERE version_id = 3"], "row-unresolved", "digest is not that of its manifest"),
        (["DELETE FROM base_pieces WHERE position = 1"], "row-unresolved", "its pieces have not as many bytes as it"),
        (["UPDATE base_files SET path = '../evil'  WHERE id = 1"], "row-unresolved", "the path leads elsewhere"),
        (["UPDATE adapters SET last_version = 0"], "row-unresolved", "could give out a version number again"),
        (["UPDATE adapter_aliases SET version_id = 3"], "row-unresolved", "stands on a version of another adapter"),
        (["UPDATE adapter_versions SET parent_id = 2 WHERE id = 1"], "lineage-broken", "its parent is younger"),
        (["UPDATE adapter_versions SET parent_id = 99 WHERE id = 2"], "lineage-broken", "its parent is missing"),
        (["UPDATE adapter_versions SET base_id = 2 WHERE id = 1"], "lineage-broken", "made for another base model"),
        (["UPDATE adapter_versions SET base_id = 2 WHERE id = 3"], "adapter-unsound", "names another base model"),
        (["UPDATE adapter_versions SET parent_id = NULL"], "adapter-unsound", "names another parent"),
        (["DELETE FROM adapter_files WHERE path = 'adapter_config.json'"], "adapter-unsound", "names other files"),
        ([f"UPDATE base_files SET sha256 = '{'0' * 64}'"], "blob-damaged", "do not make the file"),
        (["UPDATE base_pieces SET position = 9 - position WHERE position > 0"], "blob-damaged", "do not make the file"),
    ],
)  # fmt: skip
def test_contradicting_rows_are_found(full: Registry, statements: list[str], code: str, example: str) -> None:
    tamper(full, *statements)
    found = check(full)
    assert found[code].severity == "error"
    assert any(example in shown for shown in found[code].examples)


def test_what_was_removed_while_we_looked_is_no_fault(full: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_then_remove(connection: sa.Connection) -> list[Version]:
        versions = load_versions(connection)
        gone = full.catalog.remove("globex/mood@1")
        full.blobs.delete(gone.digest)
        return versions

    monkeypatch.setattr(fsck_module, "load_versions", load_then_remove)
    assert not [finding for finding in fsck(full.database, full.blobs) if finding.severity == "error"]
