"""Stored bytes that are not what they were, and artifacts that never should be stored."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from graftwork.errors import ArtifactInvalid, BaseMismatch
from graftwork.registry.artifact import DELTA, HEAD, Artifact
from graftwork.registry.manifest import FileEntry
from graftwork.settings import load_settings
from graftwork.wiring import Services, open_services
from tests.cli.running import Graft, run_graft
from tests.registry.builders import sha256


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def remove(path: Path) -> None:
    path.unlink()


def blob(home: Path, digest: str) -> Path:
    path = home / "blobs" / "sha256" / digest[:2] / digest[2:]
    path.chmod(0o644)
    return path


@pytest.fixture(scope="module")
def furnished_twice(tmp_path_factory: pytest.TempPathFactory, furnished: Path, rows_file: Path) -> Path:
    """A home with `acme/topics@1` and `globex/topics@1`."""
    home = shutil.copytree(furnished, tmp_path_factory.mktemp("twice") / "home")
    line = ["train", str(rows_file), "--base", "tiny", "--name", "globex/topics", "--strategy", "lora", "--seed", "3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_HOME", str(home))
        patch.setenv("GRAFT_DTYPE", "float32")
        assert run_graft([*line, "--set", "fine_tuning.epochs=1"]).code == 0
    return home


@pytest.fixture
def two(furnished_twice: Path, graft_home: Path, graft: Graft) -> Path:
    """That home, for one test alone."""
    shutil.copytree(furnished_twice, graft_home, dirs_exist_ok=True)
    return graft_home


@pytest.mark.parametrize("damage", [cut, flip, remove])
@pytest.mark.parametrize("file", ["manifest.json", HEAD, DELTA])
def test_a_damaged_adapter_is_refused_by_its_hash_and_the_others_still_answer(
    graft: Graft, two: Path, file: str, damage: Callable[[Path], None]
) -> None:
    shown = graft(["show", "globex/topics", "--json"]).json
    files = {entry["path"]: entry["sha256"] for entry in shown["manifest"]["files"]}
    digest = {**files, "manifest.json": shown["digest"]}[file]
    damage(blob(two, digest))
    refused = graft(["predict", "globex/topics", "quick brown fox", "--json"])
    assert (refused.code, refused.error["code"]) == (1, "blob-damaged")
    assert digest in refused.error["message"]
    assert refused.error["remedy"]
    answer = graft(["predict", "acme/topics", "quick brown fox", "--json"]).json
    assert answer["results"][0]["labels"][0]["label"] == "animal"
    assert graft(["fsck"]).code == 1


def test_training_again_heals_the_damage(graft: Graft, home: Path, rows_file: Path) -> None:
    shown = graft(["show", "acme/topics", "--json"]).json
    flip(blob(home, shown["manifest"]["files"][0]["sha256"]))
    assert graft(["predict", "acme/topics", "fox", "--json"]).code == 1
    line = ["train", str(rows_file), "--base", "tiny", "--name", "acme/topics", "--strategy", "feature-extraction"]
    assert graft([*line, "--json"]).json["digest"] == shown["digest"]
    assert graft(["predict", "acme/topics@1", "fox"]).code == 0
    assert graft(["fsck", "--json"]).json["errors"] == 0


@pytest.mark.parametrize("damage", [cut, flip, remove])
def test_a_damaged_base_model_is_refused_and_adding_it_again_heals_it(
    graft: Graft, home: Path, tiny_folder: Path, damage: Callable[[Path], None]
) -> None:
    shutil.rmtree(home / "cache")
    tensor = load((tiny_folder / "model.safetensors").read_bytes())["encoder.layer.1.output.dense.weight"]
    damage(blob(home, sha256(tensor.tobytes())))
    refused = graft(["predict", "acme/topics", "fox", "--json"])
    assert (refused.code, refused.error["code"]) == (1, "blob-damaged")
    assert "Add the base model" in refused.error["remedy"]
    assert graft(["base", "add", str(tiny_folder), "--name", "tiny"]).code == 0
    assert graft(["predict", "acme/topics", "fox"]).code == 0
    assert graft(["fsck", "--json"]).json["errors"] == 0


@pytest.fixture
def opened(two: Path) -> Services:
    return open_services(load_settings(home=two))


def changed(artifact: Artifact, file: str, content: bytes) -> Artifact:
    """The artifact with another file in it, its manifest made to agree."""
    entry = FileEntry(path=file, sha256=sha256(content), size=len(content))
    kept = [other for other in artifact.manifest.files if other.path != file]
    files = tuple(sorted([*kept, entry], key=lambda each: each.path))
    return Artifact(artifact.manifest.model_copy(update={"files": files}), {**artifact.files, file: content})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("file", [HEAD, DELTA])
def test_values_that_are_not_finite_are_refused_at_publishing(
    graft: Graft, opened: Services, file: str, value: float
) -> None:
    with opened:
        artifact = opened.catalog.read(opened.catalog.resolve("globex/topics"))
        tensors = load(artifact.files[file])
        name = sorted(tensors)[-1]
        tensors[name].flat[-1] = value
        with pytest.raises(ArtifactInvalid, match="holds NaN or infinity") as error:
            opened.catalog.publish("globex/topics", changed(artifact, file, save(tensors)))
    assert name in str(error.value)
    assert [version["reference"] for version in graft(["list", "--json"]).json] == ["acme/topics@1", "globex/topics@1"]
    assert graft(["fsck", "--json"]).json == {"errors": 0, "findings": []}


def test_an_adapter_of_another_tokenizer_is_refused_at_publishing(graft: Graft, opened: Services) -> None:
    with opened:
        artifact = opened.catalog.read(opened.catalog.resolve("globex/topics"))
        manifest = artifact.manifest.model_copy(update={"tokenizer": sha256(b"another")})
        with pytest.raises(BaseMismatch, match="tokenizer"):
            opened.catalog.publish("globex/topics", Artifact(manifest, artifact.files))
    assert graft(["show", "globex/topics", "--json"]).json["reference"] == "globex/topics@1"
    assert graft(["fsck", "--json"]).json["errors"] == 0
