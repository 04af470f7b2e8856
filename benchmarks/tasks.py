"""One adapter for three tasks against one for each: `python -m benchmarks.tasks [--seeds 0 1 2 3 4]`.

Topics of news headlines, moods of tweets, and spam, of unequal sizes. Every seed draws other training rows; the test
rows are always the same. The adapter of all tasks and those of one see the same rows, on the same sides of the split,
with the same settings. Each run is kept in a file when it is done, and is not made again.

Settings of the adapter of all tasks are tried with `--trying --set KEY=VALUE …`: those of one task keep the defaults,
all learn from the same rows, and they are judged on other rows of the training files, never on the test rows.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe
from graftwork.adaptation.inference import features_on_top, head_logits
from graftwork.backbones.backbone import Backbone
from graftwork.backbones.inspect import inspect_model
from graftwork.backbones.load import load_backbone
from graftwork.data.dataset import Dataset
from graftwork.registry.artifact import Artifact
from graftwork.registry.tasks import columns_of
from graftwork.serving.engine import Ask, Engine, EngineStats
from graftwork.training.config import TrainingConfig
from graftwork.training.job import train
from graftwork.training.progress import Silent
from graftwork.training.tasks import train_tasks

CACHE = Path(__file__).parents[1] / ".cache" / "graftwork"
SETS = {"topic": "bbc", "mood": "sentiment/tweets", "spam": "spam"}
TRAIN_ROWS = {"topic": 200, "mood": 300, "spam": 120}
TEST_ROWS = 600
TRYING_ROWS = 400
MAX_LENGTH = 32
RESAMPLES = 2000


@dataclass(frozen=True)
class Run:
    """What one adapter has right.

    Attributes:
        strategy: it was trained by.
        temperature: of the sampling, of the adapter of all tasks.
        seed: of the draw of the rows, and of training.
        task: that was trained alone; `all` of the adapter of all tasks.
        right: of each of its tasks, for each test row whether the answer was right.
        size_bytes: of the adapter.
        settings: that were set, beside these.
        trying: it is judged on rows that are kept for trying settings.
        decision: what its manifest says of how it was trained.
    """

    strategy: str
    temperature: float
    seed: int
    task: str
    right: dict[str, list[bool]]
    size_bytes: int
    settings: list[str] = field(default_factory=list)
    trying: bool = False
    decision: str = ""

    @property
    def key(self) -> tuple[object, ...]:
        """What is made once."""
        return self.strategy, self.temperature, self.seed, self.task, tuple(self.settings), self.trying


class Bench:
    """Makes runs on one backbone, and keeps them in a file.

    Args:
        backbone: the frozen backbone.
        kept: the file.
        settings: to be set, `key=value`, of adapters of all tasks.
        trying: judge on rows that are kept for trying settings.
    """

    def __init__(self, backbone: Backbone, kept: Path, settings: Sequence[str] = (), *, trying: bool = False) -> None:
        self._backbone = backbone
        self._kept, self._settings, self._trying = kept, list(settings), trying
        kept.parent.mkdir(parents=True, exist_ok=True)
        lines = kept.read_text("utf-8").splitlines() if kept.exists() else []
        self._runs = [Run(**json.loads(line)) for line in lines]
        self._tests = {task: _read(task, "test", TEST_ROWS, seed=0) for task in SETS}

    def run(self, strategy: str, temperature: float, seed: int, task: str) -> Run:
        """The run of these settings, made unless it is known."""
        settings = self._settings if task == "all" else []
        wanted = (strategy, temperature, seed, task, tuple(settings), self._trying)
        for known in self._runs:
            if known.key == wanted:
                return known
        artifact = self.adapter(strategy, temperature, seed, task)
        right, decision = self._right(artifact, task, seed), artifact.manifest.decision
        size = artifact.size_bytes
        made = Run(strategy, temperature, seed, task, right, size, settings, self._trying, decision)
        with self._kept.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(made)) + "\n")
        self._runs.append(made)
        return made

    def adapter(self, strategy: str, temperature: float, seed: int, task: str) -> Artifact:
        """Train an adapter of one task, or of all."""
        config = TrainingConfig.parse(
            strategy=strategy,
            seed=seed,
            max_length=MAX_LENGTH,
            test_share=0.0,
            assignments=[f"tasks.temperature={temperature}", *(self._settings if task == "all" else [])],
        )
        rows = {name: _read(name, "train", TRAIN_ROWS[name], seed=seed) for name in SETS}
        if task == "all":
            return train_tasks(self._backbone, rows, config=config, progress=_Told()).artifact
        return train(self._backbone, rows[task], config=config, progress=_Told()).artifact

    def passes(self, strategy: str, texts: int = 200) -> tuple[EngineStats, EngineStats]:
        """The engine's own numbers after it answered all tasks of the same texts: by one adapter, and by three.

        Of adapters that were hardly trained: how often the network runs does not depend on that.
        """
        hardly = TrainingConfig.parse(
            strategy=strategy, max_length=MAX_LENGTH, test_share=0.0, assignments=["fine_tuning.epochs=1"]
        )
        rows = {name: _read(name, "train", 60, seed=0) for name in SETS}
        together = train_tasks(self._backbone, rows, config=hardly).artifact
        alone = [train(self._backbone, each, config=hardly).artifact for each in rows.values()]
        asked = self._tests["mood"].texts[:texts]
        return self._asked([together], asked), self._asked(alone, asked)

    def _asked(self, adapters: Sequence[Artifact], texts: Sequence[str]) -> EngineStats:
        store = {artifact.digest: artifact for artifact in adapters}
        engine = Engine(lambda _: self._backbone, store.__getitem__)
        engine.start()
        try:
            base = self._backbone.fingerprint
            for future in engine.classify_each([Ask("bench", base, digest) for digest in store], texts):
                future.result(600)
            return engine.stats()
        finally:
            engine.close()

    def _right(self, artifact: Artifact, task: str, seed: int) -> dict[str, list[bool]]:
        right = {}
        for name in SETS if task == "all" else [task]:
            test = _kept_for_trying(name, seed) if self._trying else self._tests[name]
            logits = head_logits(artifact, features_on_top(self._backbone, artifact, test.texts))
            labels: Sequence[str] = artifact.manifest.labels
            for each in columns_of(artifact.manifest):
                if each.name == name:
                    logits, labels = logits[:, each.columns], each.labels
            answers = [labels[column] for column in logits.argmax(axis=1)]
            right[name] = [mine == truth for mine, truth in zip(answers, test.labels, strict=True)]
        return right


class _Told(Silent):
    """Says what is noted, so that who waits sees that something goes on."""

    def note(self, text: str) -> None:
        """Print it."""
        print(f"  {text}", flush=True)


def paired(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> tuple[float, float, float]:
    """Difference of two accuracies with its 95 % interval, over seeds and test rows drawn anew together.

    Args:
        ours: ones and noughts `[seeds, rows]`.
        theirs: of the same seeds and rows.
    """
    difference, generator = ours - theirs, np.random.default_rng(0)
    seeds, rows = difference.shape
    drawn = [
        difference[generator.integers(seeds, size=seeds)][:, generator.integers(rows, size=rows)].mean()
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)


def table(joint: Sequence[Run], alone: Mapping[str, Sequence[Run]]) -> str:
    """A line for each task, in Markdown."""
    lines = ["| task | rows | alone | together | difference | seeds |", "| --- | --- | --- | --- | --- | --- |"]
    for task in SETS:
        ours = np.array([run.right[task] for run in joint], dtype=np.float64)
        theirs = np.array([run.right[task] for run in alone[task]], dtype=np.float64)
        value, low, high = paired(ours, theirs)
        lines.append(
            f"| {task} | {TRAIN_ROWS[task]} | {theirs.mean():.1%} | {ours.mean():.1%} | "
            f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] | {len(joint)} |"
        )
    return "\n".join(lines)


def _read(task: str, side: str, count: int, *, seed: int) -> Dataset:
    """So many rows of a set, drawn by a seed; of the news their headlines."""
    path = CACHE / "datasets" / SETS[task] / f"{side}.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    if task == "topic":
        rows = sorted({(text.split("\n", 1)[0], label) for text, label in rows})
    drawn = random.Random(seed).sample(rows, min(count, len(rows)))
    return Dataset.from_lists([text for text, _ in drawn], [label for _, label in drawn], source=f"{task}-{side}.csv")


def _kept_for_trying(task: str, seed: int) -> Dataset:
    """Rows of the training file that no run of this seed learns from."""
    seen = set(_read(task, "train", TRAIN_ROWS[task], seed=seed).texts)
    rows = _read(task, "train", TRAIN_ROWS[task] + TRYING_ROWS, seed=1000 + seed)
    return rows.select([place for place, text in enumerate(rows.texts) if text not in seen][:TRYING_ROWS])


def _backbone() -> Backbone:
    folder = CACHE / "models" / "minilm"
    found = inspect_model(folder)
    return load_backbone(
        folder, fingerprint=found.fingerprint, tokenizer=found.tokenizer, metadata=found.metadata, device="cpu"
    )


def main() -> None:
    """Make what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--strategy", default="lora")
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of the adapter of all tasks")
    parser.add_argument("--trying", action="store_true", help="judge on rows of the training files that are kept back")
    parser.add_argument("--no-passes", action="store_true", help="leave out the count of the engine's passes")
    given = parser.parse_args()
    bench = Bench(_backbone(), CACHE / "bench" / "tasks.jsonl", given.set, trying=given.trying)
    joint, alone = [], {task: list[Run]() for task in SETS}
    for seed in given.seeds:
        joint.append(bench.run(given.strategy, given.temperature, seed, "all"))
        for task in SETS:
            # The temperature says nothing of a task alone: the run is made once for all of them.
            alone[task].append(bench.run(given.strategy, 2.0, seed, task))
        print(f"seed {seed} is done", flush=True)
        print(table(joint, alone), flush=True)
    print(f"\n{describe()}")
    print(f"python -m benchmarks.tasks {' '.join(sys.argv[1:])}".rstrip() + "\n")
    print(table(joint, alone))
    sizes = [sum(runs[0].size_bytes for runs in alone.values()), joint[0].size_bytes]
    print(f"\nbytes of the adapters: {sizes[0]:,} of three, {sizes[1]:,} of one")
    if not given.no_passes:
        one, three = bench.passes(given.strategy)
        print(f"rows through the network for 200 texts: {three.computed_rows:,} by three, {one.computed_rows:,} by one")
        print(f"tokens computed: {three.tokens:,} by three, {one.tokens:,} by one")


if __name__ == "__main__":
    main()
