"""`torchrun -m graftwork train`: one voice, one version, the weights of a single process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.running import Done, Graft

SETTINGS = (
    "lora.layers=2", "lora.rank=4", "lora.store=float32", "fine_tuning.batch_size=10", "fine_tuning.epochs=2",
    "fine_tuning.micro_batch_size=4", "fine_tuning.evaluate_steps=3", "fine_tuning.patience=9",
    "fine_tuning.layer_decay=0.8", "fine_tuning.class_weights=balanced", "fine_tuning.checkpoint_steps=1",
    # A start so strongly regularised that there is something to learn, and a rate so low that it is learned.
    "feature_extraction.penalties=[30]", "fine_tuning.learning_rate=1e-4",
)  # fmt: skip


def line_for(rows: Path, *options: str) -> list[str]:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    return ["train", str(rows), "--base", "tiny", "--name", "acme/topics", "--strategy", "lora", *settings, *options]


def in_two_processes(line: list[str]) -> Done:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    done = subprocess.run(
        [*launcher, "--", "graftwork", *line],  # else torchrun takes --log for the beginning of an option of its own
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return Done(done.returncode, done.stdout, done.stderr)


def weights_of(graft: Graft, reference: str, folder: Path) -> dict[str, torch.Tensor]:
    assert graft(["export", reference, "--out", str(folder)]).code == 0
    return {
        f"{file.name} {name}": tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def test_it_publishes_one_version_whose_weights_are_those_of_one_process(
    graft: Graft, home: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    log = tmp_path / "log.jsonl"
    done = in_two_processes(line_for(rows_file, "--json", "--log", str(log)))
    assert done.code == 0, done.err
    published = done.json  # one document: the second process says nothing
    assert published["reference"] == "acme/topics@2"
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == [0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 8]
    assert {path.name for path in (home / "runs" / "acme").iterdir()} == {".topics.lock"}
    single = graft(line_for(rows_file, "--json")).json
    assert single["reference"] == "acme/topics@3"
    assert published["manifest"]["decision"] == single["manifest"]["decision"] == ""
    ours, theirs = (weights_of(graft, f"acme/topics@{version}", tmp_path / str(version)) for version in (2, 3))
    assert ours.keys() == theirs.keys()
    assert any(".lora_" in name for name in ours)
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=5e-6, rtol=1e-5)
    for metric in ("log_loss", "accuracy"):
        pair = [version["manifest"]["metrics"][metric]["value"] for version in (published, single)]
        assert pair[0] == pytest.approx(pair[1], abs=1e-5)


def test_a_mistake_is_told_once_and_nothing_is_published(graft: Graft, home: Path, rows_file: Path) -> None:
    sharded = ("--set", "fine_tuning.sharding=fsdp", "--resume")
    done = in_two_processes(line_for(rows_file, *sharded))
    assert done.code != 0
    assert done.err.count("error: a sharded run keeps no checkpoints, so none can be resumed") == 1
    assert done.err.count("Train from the beginning without --resume, or leave fine_tuning.sharding out.") == 1
    assert [version["reference"] for version in graft(["list", "--json"]).json] == ["acme/topics@1"]
    alone = graft(line_for(rows_file, "--json", "--set", "fine_tuning.sharding=fsdp"))
    assert (alone.code, alone.error["code"]) == (2, "settings-invalid")
    assert "there is one" in alone.error["message"]
