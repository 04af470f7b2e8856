"""What each level of a chain gains and forgets: `python -m benchmarks.chain_levels [--seeds 0 1 2 3 4]`.

The world learns from film reviews, a region on top of it from Amazon reviews, and two users of that region from tweets
and from newspaper editorials (three sentiments; `scripts/fetch_datasets.py`): as `graft train --parent` does, with
LoRA on MiniLM-L6, users within 1 MB. Beside them stand the same users with a head alone. Every level is judged on its
own test rows against its parent, and on the test rows of the levels above against these. A child that the gate kept
back is judged as what answers then: its parent. A seed draws the training rows and decides every random choice; test
rows are always the same. Every level is kept when it is done, and is not made again.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.forgetting.runs import drawn, open_minilm, read, right, write
from benchmarks.forgetting.table import difference
from benchmarks.kept import CACHE, Kept
from benchmarks.machine import describe

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone
    from graftwork.registry.artifact import Artifact

TEST_ROWS, TOKENS, USER_BYTES = 300, 48, 1_000_000


@dataclass(frozen=True)
class Level:
    """One place in the chain.

    Attributes:
        parent: the level it stands on; empty for the base.
        domain: whose rows it learns.
        rows: how many.
        strategy: by which.
        most_bytes: what it may take.
    """

    parent: str
    domain: str
    rows: int
    strategy: str = "lora"
    most_bytes: int | None = None


LEVELS = {
    "world": Level("", "movies", 600),
    "region": Level("world", "amazon", 300),
    "user 1": Level("region", "tweets", 100, most_bytes=USER_BYTES),
    "user 2": Level("region", "editorials", 100, most_bytes=USER_BYTES),
    "user 1, head alone": Level("region", "tweets", 100, "feature-extraction", USER_BYTES),
    "user 2, head alone": Level("region", "editorials", 100, "feature-extraction", USER_BYTES),
}


@dataclass(frozen=True)
class Outcome:
    """One level of one seed.

    Attributes:
        level: which.
        seed: of the rows and of every random choice.
        refused: the gate kept it back, so its parent answers.
        size_bytes: all that is stored of it; nought when it was kept back.
        right: by domain, for each test row whether what answers has it right: its own, those above, and those below.
    """

    level: str
    seed: int
    refused: bool
    size_bytes: int
    right: dict[str, list[bool]]


class Bench:
    """Makes levels on one backbone, and keeps their adapters beside the outcomes."""

    def __init__(self) -> None:
        self._folder = CACHE / "bench" / "chain_levels"

    @cached_property
    def _backbone(self) -> Backbone:
        return open_minilm()

    def run(self, name: str, seed: int) -> Outcome:
        """Train a level on its ancestors and judge it."""
        ancestors = [] if not LEVELS[name].parent else self._answering(LEVELS[name].parent, seed)
        artifact = self._train(name, seed, ancestors)
        refused = artifact is None
        if artifact is not None:
            write(artifact, self._adapter(name, seed))
        mine, *above = [artifact, *ancestors] if artifact is not None else ancestors
        rows = {domain: drawn(domain, "test", TEST_ROWS, 0) for domain in _judged_on(name)}
        outcome = {domain: right(self._backbone, mine, test, above) for domain, test in rows.items()}
        return Outcome(name, seed, refused, 0 if refused else mine.size_bytes, outcome)

    def _train(self, name: str, seed: int, ancestors: list[Artifact]) -> Artifact | None:
        """The adapter, or None where the gate kept it back."""
        from graftwork.errors import NotBetter
        from graftwork.training.config import TrainingConfig
        from graftwork.training.job import train

        level = LEVELS[name]
        config = TrainingConfig(strategy=level.strategy, seed=seed, max_length=TOKENS, test_share=0.0)
        rows = drawn(level.domain, "train", level.rows, seed)
        try:
            return train(self._backbone, rows, config=config, ancestors=ancestors, max_bytes=level.most_bytes).artifact
        except NotBetter:
            return None

    def _answering(self, name: str, seed: int) -> list[Artifact]:
        """What answers at a level and its ancestors, the nearest first."""
        above = self._answering(LEVELS[name].parent, seed) if LEVELS[name].parent else []
        folder = self._adapter(name, seed)
        return [read(folder), *above] if (folder / "manifest.json").exists() else above

    def _adapter(self, name: str, seed: int) -> Path:
        return self._folder / f"{name}-{seed}"


def _above(name: str) -> list[str]:
    """The ancestors of a level, the nearest first."""
    parent = LEVELS[name].parent
    return [parent, *_above(parent)] if parent else []


def _judged_on(name: str) -> list[str]:
    """Domains of the level, of those above, and of those that stand on it and are compared with it."""
    below = [level.domain for level in LEVELS.values() if level.parent == name]
    return list(dict.fromkeys([LEVELS[name].domain, *(LEVELS[each].domain for each in _above(name)), *below]))


def print_table(outcomes: list[Outcome]) -> None:
    """A line for each level; intervals are 95 % bootstrap intervals over seeds and test rows, drawn anew together."""
    found = {(one.level, one.seed): one for one in outcomes}
    print("| level | rows | seeds | bytes | its parent | it itself | gain | region's rows | world's rows |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, level in LEVELS.items():
        mine = [one for one in outcomes if one.level == name]
        if not mine:
            continue
        own = _accuracy(mine, level.domain)
        parents = [found[level.parent, one.seed] for one in mine] if level.parent else []
        before = _accuracy(parents, level.domain) if parents else ""
        gain = _less(mine, parents, level.domain) if parents else ""
        lost = {
            above: _less(mine, [found[above, one.seed] for one in mine], LEVELS[above].domain) for above in _above(name)
        }
        published = [one.size_bytes for one in mine if not one.refused]
        size = f"{statistics.mean(published):,.0f}" if published else ""
        back = f" ({len(mine) - len(published)} kept back)" if len(published) < len(mine) else ""
        cells = (f"{name}, {level.domain}", str(level.rows), f"{len(mine)}{back}", size, before, own, gain)
        print(f"| {' | '.join(cells)} | {lost.get('region', '')} | {lost.get('world', '')} |")


def _accuracy(outcomes: list[Outcome], domain: str) -> str:
    return f"{statistics.mean(statistics.mean(one.right[domain]) for one in outcomes):.1%}"


def _less(mine: list[Outcome], theirs: list[Outcome], domain: str) -> str:
    return difference([(one.right[domain], other.right[domain]) for one, other in zip(mine, theirs, strict=True)])


def main() -> None:
    """Make what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    seeds = parser.parse_args().seeds
    kept, bench = Kept("chain_levels", Outcome), Bench()
    outcomes = kept.outcomes()
    for seed in seeds:
        for name in LEVELS:
            if not any((one.level, one.seed) == (name, seed) for one in outcomes):
                outcomes.append(bench.run(name, seed))
                kept.add(outcomes[-1])
    print(f"{describe()}\npython -m benchmarks.chain_levels --seeds {' '.join(map(str, seeds))}\n")
    print_table([one for one in outcomes if one.seed in seeds])


if __name__ == "__main__":
    main()
