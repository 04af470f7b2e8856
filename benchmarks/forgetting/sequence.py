"""Four sentiment domains one after the other: `python -m benchmarks.forgetting.sequence [--seeds 0 1 2 3 4]`.

MiniLM-L6 is fully fine-tuned on film reviews, and goes on with tweets, product reviews and editorials: without
protection, with EWC, whose Fisher information is handed on from version to version, with L2-SP, and with a sample of
each earlier domain learned again. After each step the version is judged on test rows of every domain that was learned
by then. What is measured is kept, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.forgetting.runs import CACHE, EPOCHS, REPLAYED, SETTINGS, Bench, drawn, right
from benchmarks.forgetting.table import difference
from benchmarks.machine import describe
from graftwork.data.dataset import Dataset
from graftwork.errors import NotBetter
from graftwork.training.config import TrainingConfig
from graftwork.training.continuing import continue_training

DOMAINS = ("movies", "tweets", "amazon", "editorials")
METHODS = ("none", "ewc", "l2-sp", "replay")
ROWS, TEST_ROWS = 150, 200  # of each domain; the first is learned from as many rows as in the runs of two domains


@dataclass(frozen=True)
class Sequence:
    """One sequence.

    Attributes:
        method: without protection, or with which.
        seed: of the rows and of every random choice.
        right: after each step, on each domain learned by then in order, of each test row whether it was right.
        kept_back: domains whose version the gate did not let pass.
    """

    method: str
    seed: int
    right: list[list[list[bool]]]
    kept_back: list[str]

    @property
    def learned(self) -> list[bool]:
        """Rows of all domains but the last, each when its domain was learned."""
        return [row for step in range(len(DOMAINS) - 1) for row in self.right[step][step]]

    @property
    def at_the_end(self) -> list[bool]:
        """The same rows at the end."""
        return [row for domain in self.right[-1][:-1] for row in domain]

    @property
    def along_the_way(self) -> list[float]:
        """Of the same rows, after how many of the later steps each was right: a share."""
        by_domain = [
            [self.right[step][place] for step in range(place + 1, len(DOMAINS))] for place in range(len(DOMAINS) - 1)
        ]
        return [float(share) for steps in by_domain for share in np.mean(steps, axis=0)]

    @property
    def newest(self) -> list[bool]:
        """Rows of all domains but the first, each when its domain was learned."""
        return [row for step in range(1, len(DOMAINS)) for row in self.right[step][step]]


def main() -> None:
    """Make the sequences that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--most", type=int, help="make at most so many sequences; 0 only prints what is there")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--results", type=Path, default=CACHE / "bench" / "forgetting" / "sequences.jsonl")
    asked = parser.parse_args()
    done = (
        [Sequence(**json.loads(line)) for line in asked.results.read_text().splitlines()]
        if asked.results.exists()
        else []
    )
    bench, made = Bench(asked.results, trying=False), 0
    for seed in asked.seeds:
        for method in asked.methods:
            if made == asked.most or any((one.method, one.seed) == (method, seed) for one in done):
                continue
            first = next((one.right[0][0] for one in done if one.seed == seed), None)
            done.append(run(bench, method, seed, first))
            made += 1
            with asked.results.open("a") as lines:
                lines.write(json.dumps(asdict(done[-1])) + "\n")
            print(f"{seed} {method} is done", file=sys.stderr, flush=True)
    print(f"{describe()}\npython -m benchmarks.forgetting.sequence {' '.join(sys.argv[1:])}".rstrip())
    print_table([one for one in done if one.seed in asked.seeds])


def run(bench: Bench, method: str, seed: int, first: list[bool] | None) -> Sequence:
    """Go through the domains by a method; `first` is what the seed's fine-tune on the first has right, if known."""
    version = bench.before(seed)
    tests = [drawn(domain, "test", TEST_ROWS, 0) for domain in DOMAINS]
    settings = [
        *SETTINGS,
        f"fine_tuning.epochs={EPOCHS[method]}",
        f"forgetting.protection={method}",
        f"seed={seed}",
    ]
    config = TrainingConfig.parse(strategy="full", assignments=settings)
    judged = [[first or right(bench.backbone, version, tests[0])]]
    kept_back = []
    for step, domain in enumerate(DOMAINS[1:], 1):
        rows = drawn(domain, "train", ROWS, seed)
        old = _sample(DOMAINS[:step], seed) if method == "replay" else None
        try:
            version = continue_training(bench.backbone, version, rows, replay=old, config=config).artifact
        except NotBetter:
            kept_back.append(domain)
        judged.append([right(bench.backbone, version, test) for test in tests[: step + 1]])
    return Sequence(method, seed, judged, kept_back)


def _sample(domains: Iterable[str], seed: int) -> Dataset:
    """Rows of each domain that were learned before."""
    parts = [drawn(domain, "train", REPLAYED, seed) for domain in domains]
    texts, labels = ([value for part in parts for value in getattr(part, name)] for name in ("texts", "labels"))
    return Dataset.from_lists(texts, labels, source="earlier domains")


def print_table(sequences: list[Sequence]) -> None:
    """Mean accuracy on each domain after each step, and what was forgotten and learned.

    Forgotten is, of each domain but the last, the accuracy at the end, or after each later step, less that right after
    it was learned; learned is, of each domain but the first, the accuracy right after it was learned less that of going
    on without protection. The first step alone, from the first domain to the second, is told in a table of its own.
    Intervals are 95 % bootstrap intervals over seeds and rows, both drawn anew.
    """
    methods = {name: [one for one in sequences if one.method == name] for name in METHODS}
    methods = {name: mine for name, mine in methods.items() if mine}
    print(f"\n| method | after | {' | '.join(DOMAINS)} |\n| --- | --- |{' --- |' * len(DOMAINS)}")
    for method, mine in methods.items():
        for step, domain in enumerate(DOMAINS):
            means = [f"{np.mean([one.right[step][place] for one in mine]):.1%}" for place in range(step + 1)]
            print(f"| {method} | {domain} | {' | '.join([*means, *[''] * (len(DOMAINS) - step - 1)])} |")
    plain = {one.seed: one for one in sequences if one.method == "none"}
    print(
        "\n| method | seeds | forgotten after each step [95 %] | at the end [95 %] | at the end, beside none [95 %] |",
        end="",
    )
    print(" learned, beside none [95 %] | kept back |\n| --- | --- | --- | --- | --- | --- | --- |")
    for method, mine in methods.items():
        forgotten = difference([(one.at_the_end, one.learned) for one in mine])
        paired = [(one, plain[one.seed]) for one in mine if one.seed in plain and method != "none"]
        kept = difference([(one.at_the_end, other.at_the_end) for one, other in paired]) if paired else ""
        learned = difference([(one.newest, other.newest) for one, other in paired]) if paired else ""
        on_the_way = difference([(one.along_the_way, one.learned) for one in mine])
        told = (method, str(len(mine)), on_the_way, forgotten, kept, learned)
        print(f"| {' | '.join(told)} | {sum(len(one.kept_back) for one in mine)} |")
    print(f"\n| method | {DOMAINS[0]} before | after | lost [95 %] | {DOMAINS[1]} | beside none [95 %] |")
    print("| --- | --- | --- | --- | --- | --- |")
    for method, mine in methods.items():
        before, after, new = (
            f"{np.mean([one.right[step][place] for one in mine]):.1%}" for step, place in ((0, 0), (1, 0), (1, 1))
        )
        lost = difference([(one.right[1][0], one.right[0][0]) for one in mine])
        paired = [(one, plain[one.seed]) for one in mine if one.seed in plain and method != "none"]
        beside = difference([(one.right[1][1], other.right[1][1]) for one, other in paired]) if paired else ""
        print(f"| {method} | {before} | {after} | {lost} | {new} | {beside} |")


if __name__ == "__main__":
    main()
