"""Run as a program by `torch.distributed.run`: the same training in several processes, or in one.

    python -m tests.training.together JOBS.json OUT

Each job is `{"name", "folder", "strategy", "assignments"}`; of each `OUT/NAME-RANK.pt` tells what came of it. Starting
processes that have PyTorch takes seconds, so all jobs share them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graftwork.adaptation import STRATEGIES
from graftwork.backbones.backbone import TextBackbone
from graftwork.errors import GraftworkError
from graftwork.training.activations import Activations
from graftwork.training.config import TrainingConfig
from graftwork.training.interruption import Interruption
from graftwork.training.loop import fine_tune
from graftwork.training.probe import fit_head
from graftwork.training.processes import join, leave
from graftwork.training.progress import Silent
from graftwork.training.rate_finder import find_rate
from graftwork.training.runs import Run
from tests.backbones.conftest import open_backbone

TEXTS = tuple(
    f"{subject} {verb} {rest}"
    for subject in ("the fox", "the dog", "a parcel", "the court")
    for verb in ("jumps over", "granted", "closed")
    for rest in ("the appeal", "the broken parcel and the case", "markets")
)[:33]
LABELS = np.array([text.startswith(("the fox", "the dog")) for text in TEXTS], dtype=np.int64)
WEIGHTS = np.array([0.5, 1.7], dtype=np.float32)


class Counting(Silent):
    """Asks one process to stop after some steps."""

    def __init__(self, wish: Interruption, stop_at: int | None) -> None:
        self.losses: list[float] = []
        self.notes: list[str] = []
        self._wish = wish
        self._stop_at = stop_at

    def note(self, text: str) -> None:
        self.notes.append(text)

    def advance(self, steps: int = 1, **metrics: float) -> None:
        if "loss" in metrics:
            self.losses.append(metrics["loss"])
        if len(self.losses) == self._stop_at:
            self._wish.request()


def identity_of_values(backbone: TextBackbone) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in backbone.model.state_dict().items()}


def train(job: dict[str, Any], rank: int) -> dict[str, Any]:
    """Fine-tune as a job says; what came of it, with the tensors that were held by this process alone."""
    config = TrainingConfig.parse(strategy=job["strategy"], assignments=job["assignments"])
    backbone = open_backbone(Path(job["folder"]), dtype=job.get("dtype", "float32"))
    before = identity_of_values(backbone)
    ids = backbone.encode(TEXTS)
    weight, bias = fit_head(backbone.embed(TEXTS).numpy(), LABELS, classes=2, penalty=10.0)
    wish = Interruption()
    watcher = Counting(wish, job["stop_at"] if "stop_at" in job and rank == job.get("stop_rank", rank) else None)
    run = Run(Path(job["run"]), resume=job.get("resume", False), interruption=wish) if "run" in job else None
    if run is not None:
        run.begin({}, watcher.note)
    found: dict[str, Any] = {"error": None}
    with STRATEGIES[job["strategy"]].attach(backbone, config.settings_of(job["strategy"]), seed=0) as attachment:
        rows = Activations(
            backbone, ids, split=attachment.split, memory=job.get("memory", 1e9), folder=Path("/dev/null")
        )
        common: dict[str, Any] = {"train": rows, "train_labels": LABELS, "settings": config.fine_tuning, "seed": 0}
        common |= {"weight": weight, "bias": bias, "progress": watcher, "class_weights": WEIGHTS}
        try:
            if job.get("find_rate"):
                found["rate"] = find_rate(backbone, attachment, **common).rate
            tuned = fine_tune(
                backbone,
                attachment,
                validation=rows,
                validation_labels=LABELS,
                learning_rate=job.get("learning_rate", 3e-3),
                run=run,
                **common,
            )
            found |= {"head": tuned.weight, "bias": tuned.bias, "logits": tuned.validation_logits}
            found |= {"best_step": tuned.best_step, "warnings": [warning.code for warning in tuned.warnings]}
        except GraftworkError as error:
            found["error"] = error.message
        parameters = [parameter.detach().clone() for parameter in attachment.parameters()]
    after = identity_of_values(backbone)
    same = before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    return found | {"delta": parameters, "losses": watcher.losses, "notes": watcher.notes, "base_is_the_same": same}


def main() -> None:
    """Do the jobs of a file."""
    jobs, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    torch.set_num_threads(1)
    together = join(torch.device("cpu"))
    for job in jobs:
        torch.save(train(job, together.rank), out / f"{job['name']}-{together.rank}.pt")
    leave()


if __name__ == "__main__":
    main()
