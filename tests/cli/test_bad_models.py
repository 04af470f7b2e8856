"""Folders that are no base model: told, and nothing of them is stored."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from tests.cli.running import Graft


def without_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": [1.0]}))


def truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def cut_in_the_header(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{ not json")


def not_finite(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.layer.0.attention.self.query.weight"][3, 4] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.bias"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def emptied(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


DAMAGE: dict[Callable[[Path], None], tuple[str, ...]] = {
    without_tokenizer: ("tokenizer",),
    pickled: ("pytorch_model.bin", "safetensors"),
    truncated: ("model.safetensors",),
    cut_in_the_header: ("model.safetensors",),
    without_config: ("config.json",),
    broken_config: ("config.json",),
    not_finite: ("model.safetensors", "encoder.layer.0.attention.self.query.weight"),
    without_a_tensor: ("encoder.layer.1.output.dense.bias",),
    emptied: ("config.json",),
}


@pytest.mark.parametrize(("damage", "named"), DAMAGE.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_unsound_folders_are_refused_and_nothing_is_stored(
    graft: Graft, home: Path, tiny_folder: Path, tmp_path: Path, damage: Callable[[Path], None], named: tuple[str, ...]
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    damage(folder)
    before = sorted((home / "blobs").rglob("*"))
    done = graft(["base", "add", str(folder), "--name", "broken", "--json"])
    assert (done.code, done.error["code"]) == (2, "model-unreadable")
    told = done.error["message"] + str(done.error["problems"]) + done.error["remedy"]
    assert str(folder) in done.error["message"]
    assert [word for word in named if word not in told] == []
    assert done.error["remedy"]
    assert sorted((home / "blobs").rglob("*")) == before
    assert [base["names"] for base in graft(["base", "list", "--json"]).json] == [["tiny"]]
    assert graft(["fsck", "--json"]).json == {"errors": 0, "findings": []}


def test_several_faults_of_one_folder_are_all_told(graft: Graft, tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    without_tokenizer(folder)
    truncated(folder)
    done = graft(["base", "add", str(folder), "--name", "broken", "--json"])
    told = str(done.error)
    assert "tokenizer" in told
    assert "model.safetensors" in told


@pytest.mark.parametrize("name", ["Tiny", "ti ny", "../tiny", "", "x" * 70])
def test_names_of_base_models_are_checked(graft: Graft, home: Path, tiny_folder: Path, name: str) -> None:
    done = graft(["base", "add", str(tiny_folder), "--name", name, "--json"])
    assert (done.code, done.error["code"]) == (2, "reference-malformed")


def test_a_name_belongs_to_one_model(graft: Graft, home: Path, tiny_folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_folder, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    tensors["embeddings.LayerNorm.bias"] += 1
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    done = graft(["base", "add", str(other), "--name", "tiny", "--json"])
    assert (done.code, done.error["code"]) == (2, "conflict")
    assert graft(["fsck", "--json"]).json["errors"] == 0


@pytest.mark.parametrize(
    "line",
    [
        ["train", "{rows}", "--base", "tinny", "--name", "acme/x"],
        ["data", "check", "{rows}", "--base", "tinny"],
        ["base", "show", "tinny"],
        ["base", "path", "tinny"],
        ["base", "rm", "tinny"],
        ["lineage", "tinny"],
        ["list", "--base", "tinny"],
        ["serve", "--preload", "tinny", "--port", "0", "--no-log"],
    ],
    ids=lambda line: " ".join(line[:2]),
)
def test_an_unknown_base_model(graft: Graft, home: Path, rows_file: Path, line: list[str]) -> None:
    done = graft([word.format(rows=rows_file) for word in line] + ["--json"])
    assert (done.code, done.error["code"]) == (2, "not-found")
    assert "tinny" in done.error["message"]
    assert "tiny" in done.error["remedy"] or "graft base list" in done.error["remedy"]


def test_a_folder_that_is_not_there_and_no_hub(graft: Graft, tmp_path: Path) -> None:
    gone = graft(["base", "add", str(tmp_path / "gone"), "--name", "gone", "--json"])
    assert (gone.code, gone.error["code"]) == (2, "not-found")
    assert "there is no folder" in gone.error["message"]
    away = graft(["base", "add", "someone/some-model", "--name", "away", "--json"])
    assert (away.code, away.error["code"]) == (2, "model-unreadable")
    assert "someone/some-model" in away.error["message"]
