"""Run as a program by `torch.distributed.run`: the same training in several processes, or in one.

    python -m tests.training.together JOBS.json OUT

Each job is `{"name", "folder", "strategy", "assignments"}`; of each `OUT/NAME-RANK.pt` tells what came of it. Starting
processes that have PyTorch takes seconds, so all jobs share them.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from graftwork.adaptation import STRATEGIES
from graftwork.adaptation.strategy import Attachment
from graftwork.adaptation.weights import WeightsAttachment
from graftwork.backbones.backbone import Backbone
from graftwork.errors import GraftworkError
from graftwork.training.activations import Activations
from graftwork.training.config import TrainingConfig
from graftwork.training.interruption import Interruption
from graftwork.training.loop import fine_tune
from graftwork.training.probe import fit_head
from graftwork.training.processes import join, leave, processes
from graftwork.training.progress import Silent
from graftwork.training.rate_finder import find_rate
from graftwork.training.runs import Run
from graftwork.training.sharding import sharded
from graftwork.training.start import Rows, Start
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
    """Asks for an end, or brings it, after some steps."""

    def __init__(self, wish: Interruption, stop_at: int | None, die_at: int | None) -> None:
        self.losses: list[float] = []
        self.notes: list[str] = []
        self._wish = wish
        self._stop_at = stop_at
        self._die_at = die_at

    def note(self, text: str) -> None:
        self.notes.append(text)

    def advance(self, steps: int = 1, **metrics: float) -> None:
        if "loss" in metrics:
            self.losses.append(metrics["loss"])
        if len(self.losses) == self._stop_at:
            self._wish.request()
        if len(self.losses) == self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)


@cache
def opened(folder: str) -> Backbone:
    """A backbone for all jobs: each must leave it as it was."""
    backbone = open_backbone(Path(folder))
    backbone.batch_tokens = 90  # evaluations in more batches than there are processes
    return backbone


def bytes_of(backbone: Backbone, attachment: Attachment) -> int:
    """Of the base and of what is trained of it, in this process."""
    return sum({id(p): p.nbytes for p in (*backbone.model.parameters(), *attachment.parameters())}.values())


def held(backbone: Backbone, attachment: Attachment, config: TrainingConfig) -> int:
    """The same while both are spread over the processes."""
    gc.collect()
    others = {id(found): found for found in gc.get_objects() if issubclass(type(found), DTensor)}
    with sharded(backbone, attachment, config.fine_tuning):
        spread_out = [
            found for found in gc.get_objects() if issubclass(type(found), DTensor) and id(found) not in others
        ]
        parts = [found.to_local().untyped_storage() for found in spread_out]
        spread: dict[int, int] = {part.data_ptr(): part.nbytes() for part in parts}
        return sum(spread.values()) + bytes_of(backbone, attachment)


def identity_of_values(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in backbone.model.state_dict().items()}


def train(job: dict[str, Any], rank: int) -> dict[str, Any]:
    """Fine-tune as a job says; what came of it, with the tensors that were held by this process alone."""
    config = TrainingConfig.parse(strategy=job["strategy"], assignments=job["assignments"])
    backbone = opened(job["folder"])
    before = identity_of_values(backbone)
    ids = backbone.encode(TEXTS)
    weight, bias = fit_head(backbone.embed(TEXTS).numpy(), LABELS, classes=2, penalty=10.0)
    wish = Interruption()
    # The last of several processes alone is asked, or dies.
    last = rank == processes().count - 1
    watcher = Counting(wish, job.get("stop_at") if last else None, job.get("die_at") if last else None)
    run = Run(Path(job["run"]), resume=job.get("resume", False), interruption=wish) if "run" in job else None
    if run is not None:
        run.begin({}, watcher.note)
    found: dict[str, Any] = {"error": None}
    with STRATEGIES[job["strategy"]].attach(backbone, config.settings_of(job["strategy"]), seed=0) as attachment:
        start = [parameter.detach().clone() for parameter in attachment.parameters()]
        if config.fine_tuning.sharding == "fsdp":
            found |= {"held": held(backbone, attachment, config), "whole": bytes_of(backbone, attachment)}
        memory, nowhere = job.get("memory", 1e9), Path("/dev/null")
        rows = Activations(backbone, ids, split=attachment.split, memory=memory, folder=nowhere)
        labelled = Rows.of(rows, LABELS, backbone.device)
        begun = Start(backbone, attachment, weight, bias, labelled, labelled, config.fine_tuning, 0, WEIGHTS)
        try:
            if job.get("find_rate"):
                found["rate"] = find_rate(begun, progress=watcher).rate
            tuned = fine_tune(begun, learning_rate=job.get("learning_rate", 3e-3), progress=watcher, run=run)
            found |= {"head": tuned.weight, "bias": tuned.bias, "logits": tuned.validation_logits}
            found |= {"best_step": tuned.best_step, "warnings": [warning.code for warning in tuned.warnings]}
        except GraftworkError as error:
            found["error"] = error.message
        parameters = [now.detach() - then for now, then in zip(attachment.parameters(), start, strict=True)]
        if isinstance(attachment, WeightsAttachment):
            # The softmax does not see a bias of keys: its gradient is rounding alone, which AdamW makes large.
            named = zip(attachment.tuned, parameters, strict=True)
            parameters = [value for name, value in named if not name.endswith("key.bias")]
    after = identity_of_values(backbone)
    same = before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    return found | {"moved": parameters, "losses": watcher.losses, "notes": watcher.notes, "base_is_the_same": same}


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
