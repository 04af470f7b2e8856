from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import PartialState

from graftwork.errors import DependencyMissing
from graftwork.training.metrics import JsonLines, Metrics, open_metrics


def ignored(text: str) -> None:
    raise AssertionError(text)


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_for_each_measurement_readable_at_once(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "run.jsonl"
    metrics = open_metrics("acme/news", log=path, tensorboard=None, note=ignored)
    metrics.log("lora", 1, {"loss": 0.5, "rate": 1e-3})
    assert lines(path) == [{"stage": "lora", "step": 1, "loss": 0.5, "rate": 0.001}]
    metrics.log("lora", 2, {"loss": 0.25})
    metrics.close()
    assert [line["step"] for line in lines(path)] == [1, 2]


def test_a_resumed_stage_forgets_what_will_be_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    first = JsonLines(path, ignored)
    for stage, step in (("probe", 9), ("lora", 1), ("lora", 2), ("lora", 3)):
        first.log(stage, step, {"loss": 1.0})
    first.close()
    with path.open("a") as file:
        file.write('{"stage": "lora", "st')  # killed in the middle of a line
    second = JsonLines(path, ignored)
    second.rewind("lora", 1)
    second.log("lora", 2, {"loss": 2.0})
    assert [(line["stage"], line["step"], line["loss"]) for line in lines(path)] == [
        ("probe", 9, 1.0),
        ("lora", 1, 1.0),
        ("lora", 2, 2.0),
    ]
    second.clear()
    assert not path.exists()


def test_a_log_that_cannot_be_written_is_told_once_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    notes: list[str] = []
    metrics = Metrics([JsonLines(tmp_path / "file" / "run.jsonl", notes.append)])
    for step in (1, 2):
        metrics.log("lora", step, {"loss": 1.0})
    assert len(notes) == 1
    assert "cannot be written" in notes[0]
    assert "logging ends" in notes[0]


def test_tensorboard_that_is_missing_is_told_with_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else real(name))
    with pytest.raises(DependencyMissing) as caught:
        open_metrics("acme/news", log=None, tensorboard=tmp_path, note=ignored)
    assert caught.value.remedy == "pip install 'graftwork[tensorboard]'"


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Packages of the names of MLflow and Weights & Biases that write down how they are called."""
    calls = tmp_path / "calls"
    common = (
        f"def note(*call):\n    with open({str(calls)!r}, 'a') as file:\n        file.write(repr(call) + chr(10))\n"
    )
    (tmp_path / "mlflow.py").write_text(
        common + "def search_experiments(filter_string): return []\n"
        "def create_experiment(name, **_): note('experiment', name); return '1'\n"
        "def start_run(run_name=None, **_): note('run', run_name)\n"
        "def log_metrics(values, step=None): note(values, step)\n"
        "def end_run(): note('end')\n"
    )
    (tmp_path / "wandb.py").write_text(
        common + "class Run:\n"
        "    def log(self, values, step=None, **_): note(values, step)\n"
        "    def finish(self): note('finish')\n"
        "def init(project=None, **options): note('init', project, options['name']); return Run()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("mlflow", "wandb"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    PartialState(cpu=True)
    yield calls
    PartialState._reset_state()


@pytest.mark.parametrize("package", ["mlflow", "wandb"])
def test_trackers_are_used_where_their_environment_says_so(
    stand_ins: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    name, value = {"mlflow": ("MLFLOW_TRACKING_URI", "file:x"), "wandb": ("WANDB_PROJECT", "mine")}[package]
    monkeypatch.setenv(name, value)
    metrics = open_metrics("acme/news", log=None, tensorboard=None, note=ignored)
    metrics.clear()
    metrics.rewind("lora", -1)
    assert not stand_ins.exists()
    metrics.log("lora", 3, {"loss": 0.5})
    metrics.close()
    told = stand_ins.read_text().splitlines()
    begin = ["('experiment', 'graftwork')", "('run', 'acme/news')"] if package == "mlflow" else None
    assert told[:-2] == (begin or ["('init', 'mine', 'acme/news')"])
    assert told[-2:] == ["({'lora/loss': 0.5}, 3)", "('end',)" if package == "mlflow" else "('finish',)"]


def test_without_their_environment_nothing_is_tracked(stand_ins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "WANDB_PROJECT", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    open_metrics("acme/news", log=None, tensorboard=None, note=ignored).log("lora", 1, {"loss": 0.5})
    assert not stand_ins.exists()
