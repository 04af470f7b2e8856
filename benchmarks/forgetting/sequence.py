"""Four sentiment domains one after the other: `python -m benchmarks.forgetting.sequence [--seeds 0 1 2]`.

MiniLM-L6 is fully fine-tuned on film reviews, and goes on with tweets, product reviews and editorials, with and without
EWC, whose Fisher information is handed on from version to version: no old row is seen again. After each step the
version is judged on test rows of all four domains. What is measured is kept, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.forgetting.runs import CACHE, EPOCHS, SETTINGS, TARGET_ROWS, TEST_ROWS, Bench, drawn, right
from benchmarks.machine import describe
from graftwork.errors import NotBetter
from graftwork.training.config import TrainingConfig
from graftwork.training.continuing import continue_training

DOMAINS = ("movies", "tweets", "amazon", "editorials")


@dataclass(frozen=True)
class Sequence:
    """One sequence.

    Attributes:
        method: without protection, or with which.
        seed: of the rows and of every random choice.
        accuracies: after each step, on each domain in order.
        kept_back: domains whose version the gate did not let pass.
    """

    method: str
    seed: int
    accuracies: list[list[float]]
    kept_back: list[str]


def main() -> None:
    """Make the sequences that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=CACHE / "bench" / "forgetting" / "sequences.jsonl")
    asked = parser.parse_args()
    done = (
        [Sequence(**json.loads(line)) for line in asked.results.read_text().splitlines()]
        if asked.results.exists()
        else []
    )
    bench = Bench(asked.results, trying=False)
    for seed in asked.seeds:
        for method in ("none", "ewc"):
            if any((one.method, one.seed) == (method, seed) for one in done):
                continue
            done.append(run(bench, method, seed))
            with asked.results.open("a") as lines:
                lines.write(json.dumps(asdict(done[-1])) + "\n")
            print(f"{seed} {method}: {done[-1].accuracies[-1]}", file=sys.stderr, flush=True)
    print(describe())
    print_table([one for one in done if one.seed in asked.seeds])


def run(bench: Bench, method: str, seed: int) -> Sequence:
    """Go through the domains by a method."""
    version = bench.before(seed)
    tests = [drawn(domain, "test", TEST_ROWS, 0) for domain in DOMAINS]
    settings = [
        *SETTINGS,
        f"fine_tuning.epochs={EPOCHS[method]}",
        f"forgetting.protection={method}",
        f"seed={seed}",
    ]
    config = TrainingConfig.parse(strategy="full", assignments=settings)
    accuracies = [[float(np.mean(right(bench.backbone, version, rows))) for rows in tests]]
    kept_back = []
    for domain in DOMAINS[1:]:
        rows = drawn(domain, "train", TARGET_ROWS, seed)
        try:
            version = continue_training(bench.backbone, version, rows, config=config).artifact
        except NotBetter:
            kept_back.append(domain)
        accuracies.append([float(np.mean(right(bench.backbone, version, rows))) for rows in tests])
    return Sequence(method, seed, accuracies, kept_back)


def print_table(sequences: list[Sequence]) -> None:
    """Mean accuracy on each domain after each step, and what was forgotten of those before the last.

    Forgotten is, of each domain but the last, the accuracy right after it was learned less that at the end.
    """
    print(f"\n| method | after | {' | '.join(DOMAINS)} |\n| --- | --- |{' --- |' * len(DOMAINS)}")
    for method in dict.fromkeys(one.method for one in sequences):
        mine = [one for one in sequences if one.method == method]
        means = np.mean([one.accuracies for one in mine], axis=0)
        for step, domain in enumerate(DOMAINS):
            print(f"| {method} | {domain} | {' | '.join(f'{value:.1%}' for value in means[step])} |")
        lost = [
            statistics.mean(one.accuracies[step][step] - one.accuracies[-1][step] for step in range(len(DOMAINS) - 1))
            for one in mine
        ]
        refused = sum(len(one.kept_back) for one in mine)
        spread = f" (least {min(lost):+.1%}, most {max(lost):+.1%})"
        print(f"\n{method}: forgotten {statistics.mean(lost):+.1%}{spread} of {len(mine)} seeds; {refused} kept back\n")


if __name__ == "__main__":
    main()
