"""float16's scaler, on a processor: `torch.amp.GradScaler` works there, only that it is of no use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from graftwork.backbones.backbone import Backbone
from graftwork.errors import TrainingInterrupted
from graftwork.training.checkpoint import read_checkpoint
from graftwork.training.interruption import Interruption
from graftwork.training.objective import Objective
from graftwork.training.precision import accelerator_for
from graftwork.training.progress import Silent
from graftwork.training.runs import Run
from graftwork.training.tuner import Tuner
from tests.training.test_loop import room_to_learn, run

Backbones = Callable[..., Backbone]
FIRST_SCALE = 1024.0


@contextmanager
def scaling(device: torch.device, precision: str) -> Iterator[Accelerator]:
    """An accelerator as a GPU has it for float16: autocast, and a scaler that grows every third step."""
    with accelerator_for(device, "float32") as accelerator:
        accelerator.state._mixed_precision = "fp16"
        accelerator.native_amp = True
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=FIRST_SCALE, growth_interval=3)
        yield accelerator


@pytest.fixture(autouse=True)
def _on_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graftwork.training.tuning.accelerator_for", scaling)


def overflowing(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Let the gradient of a step overflow, while its loss is finite."""
    real, step = Objective.total, Tuner.step
    steps = 0

    def counted(self: Tuner, *arguments: Any) -> Any:
        nonlocal steps
        steps = self.steps + 1
        return step(self, *arguments)

    def total(self: Objective, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = real(self, logits, targets)
        return loss + (logits - logits.detach()).abs().sqrt().sum() if steps == at else loss

    monkeypatch.setattr(Tuner, "step", counted)
    monkeypatch.setattr(Objective, "total", total)


def begun(folder: Path, **how: Any) -> Run:
    around = Run(folder, **how)
    around.begin({}, Silent().note)
    return around


def test_a_gradient_that_overflows_skips_its_step_and_halves_the_scale(
    backbone_of: Backbones, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = backbone_of("bert")
    values: list[list[torch.Tensor]] = []
    real = Tuner.step

    def watched(self: Tuner, *arguments: Any) -> Any:
        done = real(self, *arguments)
        values.append(self.values())
        return done

    monkeypatch.setattr(Tuner, "step", watched)
    overflowing(monkeypatch, at=2)
    how = room_to_learn(backbone) | {"epochs": 1, "checkpoint_steps": 1}
    tuned, _ = run(backbone, around=begun(tmp_path), **how)
    assert (tuned.steps, tuned.warnings) == (6, ())
    assert all(torch.equal(*pair) for pair in zip(values[0], values[1], strict=True))
    assert not any(torch.equal(*pair) for pair in zip(values[1], values[2], strict=True))
    scaler = read_checkpoint(tmp_path / "fine-tuning.safetensors").state["scaler"]
    # Three steps without an overflow doubled it again, and one more was counted.
    assert (scaler["scale"], scaler["_growth_tracker"]) == (FIRST_SCALE, 1)


@pytest.mark.parametrize("stop_after", [3, 8])
def test_a_resumed_run_goes_on_with_the_scale_it_had(
    backbone_of: Backbones, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    backbone = backbone_of("bert")
    overflowing(monkeypatch, at=5)
    how = room_to_learn(backbone) | {"dropout": 0.3, "checkpoint_steps": 1}
    whole, whole_files = run(backbone, around=begun(tmp_path / "whole"), **how)
    wish = Interruption()
    with monkeypatch.context() as patch:
        real = Tuner.step

        def asking(self: Tuner, *arguments: Any) -> Any:
            if self.steps == stop_after - 1:
                wish.request()
            return real(self, *arguments)

        patch.setattr(Tuner, "step", asking)
        with pytest.raises(TrainingInterrupted, match=f"after step {stop_after} of 18"):
            run(backbone, around=begun(tmp_path / "run", interruption=wish), **how)
    kept = read_checkpoint(tmp_path / "run" / "fine-tuning.safetensors").state["scaler"]
    # Doubled after three steps; the fifth overflowed, and three more doubled it again.
    assert kept["scale"] == 2 * FIRST_SCALE
    assert kept["_growth_tracker"] == 0
    resumed, files = run(backbone, around=begun(tmp_path / "run", resume=True), **how)
    assert files == whole_files
    assert torch.equal(resumed.weight, whole.weight)
    ends = [read_checkpoint(tmp_path / name / "fine-tuning.safetensors") for name in ("whole", "run")]
    assert ends[0].state["scaler"] == ends[1].state["scaler"]
    assert ends[0].state["scaler"]["scale"] != FIRST_SCALE
