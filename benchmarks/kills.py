"""Kill `graft train` at random moments, resume it, and compare with a run that nobody disturbed.

    python -m benchmarks.kills [--kills 50] [--seed 0] [--only …]

The kills are shared out over the cases. The model is tiny and random, so that a run takes seconds; what is written,
locked and published is what every run writes, locks and publishes. Of three kills one hits a random moment of the
clock, from outside; one a random call that writes, commits or tells progress, where a moment of the clock would
seldom fall; and one is SIGTERM at a moment of the clock, after which a process ends by itself. Every second run is
killed once more while it is resumed. A run of a case has dropout, parts of a batch and a cached trunk where its
strategy can have them.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest
from tests.backbones.tiny import save_model
from tests.cli.forked import Job, Outcome, run_jobs
from tests.cli.running import furnish, run_graft
from tests.cli.samples import write_rows

from benchmarks.machine import describe

_SETTINGS = (
    "fine_tuning.batch_size=10",
    "fine_tuning.micro_batch_size=4",
    "fine_tuning.epochs=2",
    "fine_tuning.evaluate_steps=3",
    "fine_tuning.patience=9",
    "fine_tuning.checkpoint_steps=1",
    "feature_extraction.penalties=[30]",
)
_SLOW, _SLOWER = "fine_tuning.learning_rate=1e-4", "fine_tuning.learning_rate=3e-5"
_LORA = ("lora.layers=2", "lora.dropout=0.2", "lora.rank=4", _SLOW)
CASES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "logistic head": ("feature-extraction", ()),
    "MLP head": ("feature-extraction", ("feature_extraction.head=mlp",)),
    "LoRA": ("lora", _LORA),
    "LoRA, rsLoRA": ("lora", (*_LORA, "lora.rslora=true")),
    "LoRA, PiSSA": ("lora", ("lora.init=pissa", "lora.rank=4", _SLOW)),
    "prefix": ("prefix-tuning", ("prefix_tuning.length=4", "prefix_tuning.layers=2", "fine_tuning.learning_rate=1e-2")),
    "partial": ("partial", ("partial.store=one-bit", _SLOWER)),
    "partial, split looked for": ("partial", ("partial.freeze_layers=auto", _SLOWER)),
    "full, 1 bit": ("full", ("full.store=one-bit", "fine_tuning.layer_decay=0.8", _SLOWER)),
    "full, lossless": ("full", ("full.store=lossless", "fine_tuning.layer_decay=0.8", _SLOWER)),
    "auto": ("auto", ("fine_tuning.learning_rate=1e-4", "lora.layers=2", "lora.dropout=0.2")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="runs that are killed, once or twice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    asked = parser.parse_args()
    print(f"{describe()}\npython -m benchmarks.kills {' '.join(sys.argv[1:])}\n")
    print("| case | runs | killed | stopped by SIGTERM | same digest | fsck errors | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    where: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rows = write_rows(root / "rows.csv")
        home = furnish(root / "furnished", save_model(root / "model", "bert"), rows)
        for place, case in enumerate(asked.only):
            share = asked.kills * (place + 1) // len(asked.only) - asked.kills * place // len(asked.only)
            where.update(_kill(root / str(place), home, rows, case, kills=share, seed=asked.seed))
    print(f"\nwhere they were: {', '.join(f'{phase} {count}' for phase, count in where.most_common())}")


def _kill(folder: Path, furnished: Path, rows: Path, case: str, *, kills: int, seed: int) -> Iterable[str]:
    """Print one line of the table; where the kills hit."""
    began = time.perf_counter()
    folder.mkdir()
    homes = [str(shutil.copytree(furnished, folder / str(number))) for number in range(kills + 1)]
    jobs = _jobs(homes, _line(rows, case), random.Random(f"{seed} {case}"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_DTYPE", "float32")
        patch.setenv("OMP_NUM_THREADS", "1")
        outcomes = run_jobs(jobs)
        first = [_first_published(home, jobs, outcomes) for home in homes]
        same = sum(_published(outcome) == _published(first[0]) for outcome in first[1:])
        errors = 0
        for home in homes:
            patch.setenv("GRAFT_HOME", home)
            errors += run_graft(["fsck", "--json"]).json["errors"]
    hit = [outcome for outcome in outcomes[1:-kills] if outcome.code in (-signal.SIGKILL, 75, -signal.SIGTERM)]
    stopped = sum(outcome.code != -signal.SIGKILL for outcome in hit)
    seconds = time.perf_counter() - began
    cells = (kills, len(hit) - stopped, stopped, f"{same} of {kills}", errors, f"{seconds:.0f}")
    print(f"| {case} | {' | '.join(map(str, cells))} |", flush=True)
    return [_phase(outcome) for outcome in hit]


def _jobs(homes: Sequence[str], line: list[str], draw: random.Random) -> list[Job]:
    """A whole run in the first home; in the others runs that are killed, some of them twice, and resumed."""
    again = [*line, "--resume"]
    jobs = [Job(homes[0], line)]
    for number, home in enumerate(homes[1:]):
        moment = draw.uniform(0, 0.98)
        if number % 3 == 0:
            jobs.append(Job(home, line, kill_at_time=moment))
        elif number % 3 == 1:
            # Before the last few calls: once the run's folder is gone there is nothing to resume.
            jobs.append(Job(home, line, kill_at=moment))
        else:
            jobs.append(Job(home, line, kill_at_time=moment, kill_with=signal.SIGTERM))
    jobs += [Job(home, again, kill_at=draw.uniform(0, 0.5)) for home in homes[1::2]]
    return jobs + [Job(home, again) for home in homes[1:]]


def _line(rows: Path, case: str) -> list[str]:
    strategy, own = CASES[case]
    chosen = [setting for setting in _SETTINGS if strategy != "feature-extraction" or "feature" in setting]
    settings = [word for setting in (*chosen, *own) for word in ("--set", setting)]
    return ["train", str(rows), "--base", "tiny", "--name", "acme/topics", "--strategy", strategy, "--json", *settings]


def _phase(outcome: Outcome) -> str:
    """The stage; writing in it is told apart."""
    stage, step = outcome.last
    writing = step in ("fsync", "rename")
    if stage.startswith("judging") and (writing or step in ("statement", "commit")):
        return "publishing"
    if stage == "fine-tuning" and writing:
        return "writing a checkpoint"
    return stage or "before the first stage"


def _first_published(home: str, jobs: Sequence[Job], outcomes: Sequence[Outcome]) -> Outcome:
    """The first run of a home that was not hit: who resumes after it has nothing to resume, and begins anew."""
    return next(outcome for job, outcome in zip(jobs, outcomes, strict=True) if job.home == home and not outcome.code)


def _published(outcome: Outcome) -> tuple[str, str]:
    content = json.loads(outcome.out)
    return content["reference"], content["digest"]


if __name__ == "__main__":
    main()
