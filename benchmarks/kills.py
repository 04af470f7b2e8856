"""Kill `graft train` at random moments, resume it, and compare with a run that nobody disturbed.

    python -m benchmarks.kills [--kills 50] [--seed 0]

The kills are shared out over the strategies. The model is tiny and random, so that a run takes seconds; what is
written, locked and published is what every run writes, locks and publishes. A moment is a share of the calls that
write, commit or tell progress; the process kills itself there with SIGKILL. Every second run is killed once more while
it is resumed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from tests.backbones.tiny import save_model
from tests.cli.forked import Job, Outcome, run_jobs
from tests.cli.running import furnish, run_graft
from tests.cli.samples import write_rows

from graftwork.adaptation import STRATEGIES

_SETTINGS = (
    "fine_tuning.batch_size=10",
    "fine_tuning.micro_batch_size=4",
    "fine_tuning.epochs=2",
    "fine_tuning.evaluate_steps=3",
    "fine_tuning.patience=9",
    "fine_tuning.checkpoint_steps=1",
    "fine_tuning.learning_rate=1e-4",
    "feature_extraction.penalties=[30]",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    print(f"{'strategy':20} {'kills':>6} {'same digest':>12} {'fsck errors':>12} {'seconds':>8}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rows = write_rows(root / "rows.csv")
        home = furnish(root / "furnished", save_model(root / "model", "bert"), rows)
        for place, strategy in enumerate(STRATEGIES):
            share = asked.kills * (place + 1) // len(STRATEGIES) - asked.kills * place // len(STRATEGIES)
            _kill(root / strategy, home, rows, strategy, kills=share, seed=asked.seed)


def _kill(folder: Path, furnished: Path, rows: Path, strategy: str, *, kills: int, seed: int) -> None:
    """Print one line of the table."""
    began = time.perf_counter()
    folder.mkdir()
    draw = random.Random(f"{seed} {strategy}")
    settings = [word for setting in _SETTINGS for word in ("--set", setting)]
    line = ["train", str(rows), "--base", "tiny", "--name", "acme/topics", "--strategy", strategy, "--json", *settings]
    homes = [str(shutil.copytree(furnished, folder / str(number))) for number in range(kills + 1)]
    # Before the last few calls: once the run's folder is gone there is nothing to resume.
    jobs = [Job(homes[0], line)]
    jobs += [Job(home, line, kill_at=draw.uniform(0, 0.98)) for home in homes[1:]]
    jobs += [Job(home, [*line, "--resume"], kill_at=draw.uniform(0, 0.5)) for home in homes[1::2]]
    jobs += [Job(home, [*line, "--resume"]) for home in homes[1:]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_DTYPE", "float32")
        patch.setenv("OMP_NUM_THREADS", "1")
        outcomes = run_jobs(jobs)
        whole, resumed = outcomes[0], outcomes[-kills:]
        same = sum(_published(outcome) == _published(whole) for outcome in resumed)
        errors = 0
        for home in homes:
            patch.setenv("GRAFT_HOME", home)
            errors += run_graft(["fsck", "--json"]).json["errors"]
    killed = len(jobs) - kills - 1
    seconds = time.perf_counter() - began
    print(f"{strategy:20} {killed:6} {same:6} of {kills:2} {errors:12} {seconds:8.0f}", flush=True)


def _published(outcome: Outcome) -> tuple[str, str]:
    content = json.loads(outcome.out)
    return content["reference"], content["digest"]


if __name__ == "__main__":
    main()
