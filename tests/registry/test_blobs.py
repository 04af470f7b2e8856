from __future__ import annotations

import os
import subprocess
import sys
import uuid
from datetime import timedelta
from pathlib import Path

import obstore
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import LocalStore

from graftwork.errors import BlobDamaged, SettingsInvalid, StorageError, StorageFull
from graftwork.registry.blobs import BlobStore
from graftwork.registry.durable import is_abandoned, owned_name
from graftwork.registry.spans import CHUNK, FileSpan
from tests.registry.builders import sha256


@pytest.fixture(params=["local", "memory"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return BlobStore.open((tmp_path / "a b%").as_uri() if request.param == "local" else "memory:///")


@pytest.fixture
def local(tmp_path: Path) -> BlobStore:
    return BlobStore.open(tmp_path)


def place(root: Path, digest: str) -> Path:
    return root / "sha256" / digest[:2] / digest[2:]


def test_bytes_come_back(blobs: BlobStore, tmp_path: Path) -> None:
    big = os.urandom(2 * CHUNK + 17)
    (tmp_path / "source").write_bytes(big)
    sources: dict[bytes | Path | FileSpan, bytes] = {
        b"": b"",
        b"hello": b"hello",
        tmp_path / "source": big,
        FileSpan(tmp_path / "source", 5, CHUNK + 1): big[5 : CHUNK + 6],
    }
    for source, content in sources.items():
        info = blobs.put(source)
        assert (info.digest, info.size, info.created) == (sha256(content), len(content), True)
        assert blobs.put(source).created is False
        assert blobs.get(info.digest) == content == b"".join(blobs.stream(info.digest))
        assert blobs.size(info.digest) == len(content)
        assert blobs.exists(info.digest, size=len(content))
        assert not blobs.exists(info.digest, size=len(content) + 1)
    assert sorted(blob.size for blob in blobs.iterate()) == [0, 5, CHUNK + 1, 2 * CHUNK + 17]
    blobs.delete(sha256(b"hello"))
    blobs.delete(sha256(b"hello"))
    assert not blobs.exists(sha256(b"hello"))
    assert blobs.size(sha256(b"hello")) is None
    assert blobs.age(sha256(b"hello")) is None
    assert list(blobs.leftovers(timedelta())) == []


def test_a_blob_lies_below_its_digest(local: BlobStore, tmp_path: Path) -> None:
    digest = local.put(b"hello").digest
    assert place(tmp_path, digest).read_bytes() == b"hello"


def test_what_is_missing_is_told(blobs: BlobStore) -> None:
    for read in (blobs.get, lambda digest: list(blobs.stream(digest))):
        with pytest.raises(BlobDamaged, match="is missing from the store"):
            read(sha256(b"never"))
    assert not blobs.is_sound(sha256(b"never"))


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 65])
def test_only_digests_are_looked_up(blobs: BlobStore, digest: str) -> None:
    with pytest.raises(BlobDamaged, match="is not a SHA-256 digest"):
        blobs.get(digest)


@settings(max_examples=40)
@given(content=st.binary(min_size=1, max_size=200), data=st.data())
def test_any_flipped_bit_and_any_cut_is_refused_then_healed(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
) -> None:
    root = tmp_path_factory.getbasetemp() / uuid.uuid4().hex
    blobs = BlobStore.open(root)
    digest = blobs.put(content).digest
    position = data.draw(st.integers(0, len(content) - 1))
    damaged = bytearray(content[:position])
    if data.draw(st.booleans()):
        damaged += bytes([content[position] ^ (1 << data.draw(st.integers(0, 7)))]) + content[position + 1 :]
    place(root, digest).write_bytes(damaged)
    assert not blobs.is_sound(digest)
    with pytest.raises(BlobDamaged, match="is damaged"):
        blobs.get(digest, size=len(content) if data.draw(st.booleans()) else None)
    (leftover,) = blobs.leftovers(timedelta())
    assert leftover.path.startswith(f"quarantine/{digest}.")
    assert not blobs.exists(digest)
    assert blobs.put(content).created is True
    assert blobs.get(digest) == content


def test_a_damaged_blob_is_replaced_by_the_next_put(local: BlobStore, tmp_path: Path) -> None:
    digest = local.put(b"hello").digest
    place(tmp_path, digest).write_bytes(b"hullo")
    assert local.put(b"hello").created is False
    assert local.get(digest) == b"hello"


def test_a_blob_that_is_put_again_is_young_again(local: BlobStore, tmp_path: Path) -> None:
    digest = local.put(b"hello").digest
    os.utime(place(tmp_path, digest), (1, 1))
    age = local.age(digest)
    assert age is not None
    assert age > timedelta(days=10_000)
    local.put(b"hello")
    age = local.age(digest)
    assert age is not None
    assert age < timedelta(minutes=1)


def test_bytes_reach_the_disk_before_the_name_does(local: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        steps.append("folder" if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir() else "file")
        real_fsync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return real_replace(self, target)

    local.put(b"first")
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    local.put(b"second")
    assert steps[-3:] == ["file", "rename", "folder"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "error"), [(28, StorageFull), (122, StorageFull), (27, StorageFull), (5, StorageError)]
)
def test_a_failed_write_is_told_and_leaves_nothing(
    local: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int, error: type[StorageError]
) -> None:
    local.put(b"before")

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(*((os, "fsync", fail) if step == "fsync" else (Path, "replace", fail)))
        with pytest.raises(error) as told:
            local.put(b"hello")
    assert type(told.value) is error
    assert [blob.digest for blob in local.iterate()] == [sha256(b"before")]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [sha256(b"before")[2:]]


def test_a_source_that_changes_while_it_is_read_is_refused(local: BlobStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"hello")
    span = FileSpan(source, 0, 5)
    source.write_bytes(b"hullo")
    with pytest.raises(StorageError, match="changed while it was read"):
        local.put(span, digest=sha256(b"hello"))
    source.write_bytes(b"hel")
    with pytest.raises(StorageError, match="was cut short while it was read"):
        local.put(span)
    source.unlink()
    with pytest.raises(StorageError, match="cannot be read"):
        local.put(source)
    assert list(local.iterate()) == []
    assert list(local.leftovers(timedelta())) == []


def test_only_what_the_dead_left_is_abandoned(local: BlobStore, tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    mine = owned_name()
    dead = mine.replace(f"pid{os.getpid()}", f"pid{child.pid}")
    stranger = mine.replace(mine.split(".pid")[0], "elsewhere")
    assert [is_abandoned(name) for name in (mine, dead, stranger, "unnamed")] == [False, True, False, False]
    (tmp_path / "staging").mkdir()
    for name in (mine, dead, stranger):
        (tmp_path / "staging" / name).write_bytes(b"123")
    found = {Path(leftover.path).name: leftover.abandoned for leftover in local.leftovers(timedelta())}
    assert found == {mine: False, dead: True, stranger: False}
    for name in (mine, stranger):
        os.utime(tmp_path / "staging" / name, (1, 1))
    assert all(leftover.abandoned for leftover in local.leftovers(timedelta()))


def test_a_process_of_somebody_else_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(pid: int, signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", forbidden)
    assert not is_abandoned(owned_name())


def test_a_store_of_no_known_kind_is_told() -> None:
    with pytest.raises(SettingsInvalid, match="names no blob store"):
        BlobStore.open("nonsense://x")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be created"):
        BlobStore.open(tmp_path / "file")


def test_a_blob_that_was_healed_meanwhile_is_not_quarantined(
    local: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = local.put(b"hello").digest
    place(tmp_path, digest).write_bytes(b"hullo")
    real = obstore.rename

    def heal_then_rename(store: LocalStore, source: str, target: str) -> None:
        local.put(b"hello")
        real(store, source, target)

    with monkeypatch.context() as patched:
        patched.setattr(obstore, "rename", heal_then_rename)
        with pytest.raises(BlobDamaged):
            local.get(digest)
    assert local.get(digest) == b"hello"
    assert list(local.leftovers(timedelta())) == []
