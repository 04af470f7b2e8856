from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save, save_file

from graftwork.errors import (
    BlobDamaged,
    Conflict,
    InUse,
    ModelUnreadable,
    NotFound,
    ReferenceMalformed,
    StorageError,
    StorageFull,
)
from graftwork.registry import base_cache, base_models
from graftwork.registry.base_folder import FolderPlan, is_safe_path, plan_folder
from graftwork.registry.base_insert import MeasuredFile, Piece, measure_plan
from graftwork.registry.base_models import BaseModels
from graftwork.registry.base_rows import BaseModel
from graftwork.registry.spans import FileSpan, measure
from tests.registry.builders import (
    METADATA,
    TOKENIZER,
    Registry,
    base_tensors,
    fingerprint_of,
    make_artifact,
    make_base_folder,
    sha256,
)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def add(registry: Registry, folder: Path, name: str, **more: str) -> base_models.AddedBase:
    return registry.bases.add(
        folder, fingerprint=fingerprint_of(folder), tokenizer=TOKENIZER, metadata=METADATA, name=name, **more
    )


def test_a_folder_comes_back_byte_for_byte(registry: Registry, tmp_path: Path) -> None:
    folder = make_base_folder(tmp_path / "model")
    original = contents(folder)
    for unwanted in (".gitattributes", "modeling.py", "pytorch_model.bin", "model.onnx"):
        (folder / unwanted).write_bytes(b"\x80\x04")
    added = add(registry, folder, "minilm")
    assert added.created
    assert added.alias_of is None
    assert added.bytes_total == added.bytes_new == added.base.size_bytes == sum(map(len, original.values()))
    assert added.skipped == (".gitattributes", "model.onnx", "modeling.py", "pytorch_model.bin")
    assert added.base.reference == "minilm/1/base"
    assert added.base.aliases == ("minilm",)
    assert added.base.metadata == METADATA
    assert {f.path: (f.sha256, f.size) for f in added.base.files} == {
        path: (sha256(content), len(content)) for path, content in original.items()
    }
    shutil.rmtree(folder)
    fetched = registry.bases.fetch(added.base)
    assert fetched == registry.home / "cache" / added.base.fingerprint
    assert contents(fetched) == original


def test_each_tensor_is_stored_once_whatever_models_hold_it(registry: Registry, tmp_path: Path) -> None:
    tensors = base_tensors()
    first = add(registry, make_base_folder(tmp_path / "a", tensors=tensors), "first")
    for tensor in tensors.values():
        assert registry.blobs.exists(sha256(tensor.tobytes()), size=tensor.nbytes)
    changed = tensors | {"layer.0.weight": tensors["layer.0.weight"] + 1}
    second = add(registry, make_base_folder(tmp_path / "b", tensors=changed), "second")
    assert second.created
    assert second.bytes_total == first.bytes_total
    assert second.bytes_new == changed["layer.0.weight"].nbytes
    assert load((registry.bases.fetch(second.base) / "model.safetensors").read_bytes())["layer.0.weight"].tolist() == (
        changed["layer.0.weight"].tolist()
    )


def test_the_same_content_again_is_an_alias(registry: Registry, tmp_path: Path) -> None:
    first = registry.add_base("minilm")
    folder = make_base_folder(tmp_path / "copy", readme="Another card of the same model.")
    again = add(registry, folder, "encoder", family="other", version="7")
    assert (again.created, again.alias_of, again.bytes_new) == (False, "minilm/1/base", 0)
    assert again.base.aliases == ("minilm", "encoder")
    assert registry.bases.resolve("encoder") == registry.bases.resolve("minilm") == again.base
    assert len(registry.bases.list()) == 1
    same = registry.add_base("minilm")
    assert (same.created, same.alias_of, same.base.aliases) == (False, "minilm/1/base", ("minilm", "encoder"))
    assert again.base.files == first.base.files


def test_names_and_places_of_others_are_refused_before_anything_is_stored(registry: Registry) -> None:
    registry.add_base("minilm", version="6", variant="v2")
    before = list(registry.blobs.iterate())
    with pytest.raises(Conflict, match="name 'minilm' belongs to another base model, minilm/6/v2"):
        registry.bases.add(
            make_base_folder(registry.home / "x", seed=1), name="minilm", fingerprint="1" * 64, tokenizer=TOKENIZER,
            metadata=METADATA,
        )  # fmt: skip
    assert {b.digest for b in registry.blobs.iterate()} == {b.digest for b in before}
    with pytest.raises(Conflict, match="minilm/6/v2 is another base model"):
        registry.add_base("other", seed=1, family="minilm", version="6", variant="v2")
    with pytest.raises(ReferenceMalformed, match="'MiniLM' cannot be a name"):
        registry.add_base("MiniLM")
    with pytest.raises(ReferenceMalformed, match="cannot be a variant"):
        registry.add_base("x", variant="a/b")
    with pytest.raises(ModelUnreadable, match="64 hexadecimal digits"):
        registry.add_base("x", fingerprint="short")
    assert [b.reference for b in registry.bases.list()] == ["minilm/6/v2"]


def test_a_base_is_found_by_name_place_and_fingerprint(registry: Registry) -> None:
    old = registry.add_base("one", family="minilm").base
    new = registry.add_base("two", seed=1, family="minilm").base
    assert (old.reference, new.reference) == ("minilm/1/base", "minilm/2/base")
    for reference, expected in {
        "one": old,
        "minilm/1/base": old,
        "minilm/1": old,
        "minilm": new,
        old.fingerprint: old,
        new.fingerprint[:8]: new,
    }.items():
        assert registry.bases.resolve(reference) == expected
    for reference in ("minilm/3", "minilm/1/base/x", old.fingerprint[:7], "", "0" * 64, "x" * 10_000):
        with pytest.raises(NotFound, match="no base model"):
            registry.bases.resolve(reference)
    with pytest.raises(NotFound, match=r"(?s)no base model 'minilmm'.*Did you mean 'minilm/2/base'"):
        registry.bases.resolve("minilmm")


def test_an_ambiguous_fingerprint_is_told(registry: Registry) -> None:
    registry.add_base("one", fingerprint="abcdef00" + "0" * 56)
    registry.add_base("two", fingerprint="abcdef00" + "1" * 56)
    with pytest.raises(NotFound, match="begins more than one fingerprint"):
        registry.bases.resolve("abcdef00")


def test_listing_filters_by_metadata(registry: Registry) -> None:
    small = METADATA.model_copy(update={"description": "A sentence encoder"})
    large = METADATA.model_copy(update={"architecture": "decoder-only", "parameters": 10**10, "domain": "speech"})
    registry.add_base("small", metadata=small)
    registry.add_base("large", seed=1, metadata=large, family="llm")

    def names(**filters: object) -> list[str]:
        return [base.family for base in registry.bases.list(**filters)]  # type: ignore[arg-type]

    assert names() == ["llm", "small"]
    assert names(domain="nlp") == ["small"]
    assert names(architecture="decoder-only") == ["llm"]
    assert names(max_parameters=10**9) == ["small"]
    assert names(search="SENTENCE") == ["small"]
    assert names(search="large") == ["llm"]
    assert names(search="llm/1") == ["llm"]
    assert names(search="l_m") == []


def test_a_base_with_children_cannot_be_removed(registry: Registry, base: BaseModel) -> None:
    registry.catalog.publish("acme/news", make_artifact(base))
    assert registry.bases.resolve("tiny").children == 1
    with pytest.raises(InUse, match="has 1 adapter versions: acme/news@1"):
        registry.bases.remove("tiny")
    registry.catalog.remove("acme/news@1")
    assert registry.bases.remove("tiny").fingerprint == base.fingerprint
    assert registry.bases.list() == []
    assert registry.add_base("tiny").created


def break_file(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def damage(folder: Path, how: str) -> None:
    config = folder / "config.json"
    match how:
        case "flipped":
            break_file(folder / "model.safetensors")
        case "cut":
            (folder / "model.safetensors").write_bytes(b"")
        case "missing":
            config.unlink()
        case "stranger":
            (folder / "modeling_evil.py").write_text("import os")
        case "strange folder":
            (folder / "x" / "y").mkdir(parents=True)
        case "folder in place of a file":
            config.unlink()
            config.mkdir()
        case "file in place of a folder":
            shutil.rmtree(folder / "1_Pooling")
            (folder / "1_Pooling").write_text("")
        case "link":
            config.rename(folder.parent / "elsewhere.json")
            config.symlink_to(folder.parent / "elsewhere.json")
        case "link in place of the folder":
            folder.rename(folder.parent / "elsewhere")
            folder.symlink_to(folder.parent / "elsewhere")
        case _:
            raise ValueError(how)


@pytest.mark.parametrize(
    "how",
    [
        "flipped",
        "cut",
        "missing",
        "stranger",
        "strange folder",
        "folder in place of a file",
        "file in place of a folder",
        "link",
        "link in place of the folder",
    ],
)
def test_a_damaged_cache_is_made_anew(registry: Registry, base: BaseModel, how: str) -> None:
    folder = registry.bases.fetch(base)
    original = contents(folder)
    damage(folder, how)
    assert registry.bases.fetch(base) == folder
    assert contents(folder) == original
    assert not folder.is_symlink()
    assert not (folder / "config.json").is_symlink()


def test_a_sound_cache_is_used_without_the_blob_store(
    registry: Registry, base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = registry.bases.fetch(base)
    monkeypatch.setattr(registry.blobs, "stream", None)
    before = (folder / "model.safetensors").stat()
    registry.bases.fetch(base)
    after = (folder / "model.safetensors").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_damaged_weights_are_never_fetched_and_adding_again_heals_them(registry: Registry, base: BaseModel) -> None:
    digest = sha256(base_tensors()["layer.0.weight"].tobytes())
    break_file(registry.blob_path(digest))
    with pytest.raises(BlobDamaged, match=r"base model tiny/1/base cannot be fetched, model.safetensors is incomplete"):
        registry.bases.fetch(base)
    assert not (registry.home / "cache" / base.fingerprint / "model.safetensors").exists()
    assert list((registry.home / "cache" / "staging").iterdir()) == []
    registry.blob_path(digest).unlink()
    with pytest.raises(BlobDamaged, match="is missing from the store"):
        registry.bases.fetch(base)
    registry.add_base()
    assert contents(registry.bases.fetch(base)) == contents(registry.home / "sources" / "tiny-0")


def test_processes_may_fetch_the_same_model_at_once(registry: Registry, base: BaseModel) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.registry.builders import Registry\n"
        f"registry = Registry.open(Path({str(registry.home)!r})); base = registry.bases.resolve('tiny')\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for _ in range(20):\n"
        "    folder = registry.bases.fetch(base)\n"
        "    (folder / 'model.safetensors').write_bytes(b'damaged'); registry.bases.fetch(base)\n"
    )
    pipe = subprocess.PIPE
    children = [subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe, stderr=pipe) for _ in "ab"]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"\n")
        child.stdin.flush()
    errors = [child.communicate()[1].decode() for child in children]
    assert [child.returncode for child in children] == [0, 0], errors
    assert contents(registry.bases.fetch(base)) == contents(registry.home / "sources" / "tiny-0")


def test_a_file_that_another_process_cuts_short_meanwhile_is_made_anew(
    registry: Registry, base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.bases.fetch(base)
    cut: list[Path] = []

    def cut_short(span: FileSpan) -> str:
        if span.path.name == "model.safetensors":
            cut.append(span.path)
            span.path.write_bytes(b"damaged")
        return measure(span)

    monkeypatch.setattr(base_cache, "measure", cut_short)
    folder = registry.bases.fetch(base)
    assert len(cut) == 1
    assert contents(folder) == contents(registry.home / "sources" / "tiny-0")


def refused(folder: Path) -> str:
    with pytest.raises(ModelUnreadable) as told:
        plan_folder(folder)
    assert told.value.remedy
    return str(told.value)


def test_unsound_folders_are_refused_with_every_problem(tmp_path: Path) -> None:
    assert "there is no folder" in refused(tmp_path / "never")
    (tmp_path / "empty").mkdir()
    assert "no weights: there is no file" in refused(tmp_path / "empty")
    pickled = make_base_folder(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    assert "pytorch_model.bin: weights in a format that may run code" in refused(pickled)
    folder = make_base_folder(tmp_path / "model")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-5])
    (folder / "other.safetensors").write_bytes(b"\x80\x04")
    (folder / "link.json").symlink_to("/etc/passwd")
    (folder / "gone.json").symlink_to("nowhere.json")
    (folder / "linked").symlink_to("/etc")
    os.mkfifo(folder / "pipe.json")
    told = refused(folder)
    for problem in (
        "model.safetensors: should have",
        "other.safetensors: has 2 bytes, too few",
        "link.json: is a link that leads out of the folder",
        "gone.json: is a link to a file that does not exist",
        "linked: is a link to a folder",
        "pipe.json: is no regular file",
    ):
        assert problem in told


def test_links_are_followed_inside_the_folder_and_into_the_hub_cache(tmp_path: Path) -> None:
    cache = tmp_path / "models--org--name"
    snapshot = make_base_folder(cache / "snapshots" / "abc")
    (cache / "blobs").mkdir()
    (snapshot / "model.safetensors").rename(cache / "blobs" / "1234")
    (snapshot / "model.safetensors").symlink_to("../../blobs/1234")
    (snapshot / "copy.json").symlink_to("config.json")
    plan = plan_folder(snapshot)
    assert [file.path for file in plan.files][-1] == "tokenizer.json"
    assert {"model.safetensors", "copy.json"} < {file.path for file in plan.files}


def sharded(folder: Path) -> Path:
    make_base_folder(folder)
    (folder / "model.safetensors").unlink()
    tensors = base_tensors()
    shards = {"model-1.safetensors": list(tensors)[:2], "model-2.safetensors": list(tensors)[2:]}
    for shard, names in shards.items():
        save_file({name: tensors[name] for name in names}, folder / shard)
    weight_map = {name: shard for shard, names in shards.items() for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def test_sharded_weights_are_taken_and_their_index_is_proved(registry: Registry, tmp_path: Path) -> None:
    folder = sharded(tmp_path / "model")
    fields = {"tokenizer": TOKENIZER, "metadata": METADATA, "fingerprint": "1" * 64}
    added = registry.bases.add(folder, name="sharded", **fields)  # type: ignore[arg-type]
    assert contents(registry.bases.fetch(added.base)) == contents(folder)
    (folder / "model-1.safetensors").write_bytes(save({"other": np.zeros(1, np.float32)}))
    (folder / "model-2.safetensors").unlink()
    told = refused(folder)
    assert "the shard 'model-2.safetensors' is missing" in told
    assert "tensor 'embeddings.weight' is not in the shard 'model-1.safetensors'" in told
    for broken in (b"", b"[]", b"{}", b'{"weight_map": 3}'):
        (folder / "model.safetensors.index.json").write_bytes(broken)
        assert "is no index of shards" in refused(folder)


@pytest.mark.parametrize(
    ("path", "safe"),
    [("a/b.json", True), ("../a", False), ("/a", False), ("a//b", False), ("a/./b", False), ("a\\b", False),
     ("C:a", False), ("", False), ("a\nb", False), ("x" * 256, False)],
)  # fmt: skip
def test_paths_that_lead_elsewhere_are_known(path: str, safe: bool) -> None:
    assert is_safe_path(path) is safe


def test_a_model_that_changes_while_it_is_added_is_refused(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure_then_change(plan: FolderPlan) -> tuple[MeasuredFile, ...]:
        measured = measure_plan(plan)
        break_file(registry.home / "sources" / "tiny-0" / "model.safetensors")
        return measured

    monkeypatch.setattr(base_models, "measure_plan", measure_then_change)
    with pytest.raises(StorageError, match="changed while it was read"):
        registry.add_base()
    assert registry.bases.list() == []


def test_blobs_collected_while_a_base_is_added_are_stored_again(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = BaseModels._store
    calls: list[int] = []

    def store_then_lose(self: BaseModels, pieces: list[Piece]) -> int:
        stored = real(self, pieces)
        calls.append(len(pieces))
        if len(calls) == 1:
            for blob in list(self._blobs.iterate())[:3]:
                self._blobs.delete(blob.digest)
        return stored

    monkeypatch.setattr(BaseModels, "_store", store_then_lose)
    added = registry.add_base()
    assert calls[1] == 3
    assert contents(registry.bases.fetch(added.base)) == contents(registry.home / "sources" / "tiny-0")


def test_a_path_that_leads_out_of_the_cache_is_never_written(registry: Registry, base: BaseModel) -> None:
    evil = base.files[0].model_copy(update={"path": "../../evil.json"})
    with pytest.raises(BlobDamaged, match=r"has a file at '\.\./\.\./evil.json'"):
        registry.bases.fetch(dataclasses.replace(base, files=(evil,)))
    assert not (registry.home / "evil.json").exists()


def test_a_cache_without_space_is_told(registry: Registry, base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(StorageFull, match="cannot be written: No space left"):
            registry.bases.fetch(base)
    assert list((registry.home / "cache" / "staging").iterdir()) == []
    assert contents(registry.bases.fetch(base)) == contents(registry.home / "sources" / "tiny-0")
