"""Accuracy alone, in one process: `python -m benchmarks.training.accuracy --rows 8 --per-class [--only …] [--seeds 5]`.

The rows, the test rows, the peers and the search for their rates are those of `python -m benchmarks.training`, which
measures whole processes and is where seconds come from; here the libraries and the base are loaded once. Ours learn
from all rows that are given, with their defaults. Peers by Trainer take as many epochs as `LEAST_STEPS` steps need,
five at least. Of few rows a fifth says little of a rate: the middle one of those that are equally good is taken.

Every run is a line of `--results` as soon as it ends, and runs that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.machine import describe
from benchmarks.training.peers import MAX_LENGTH, PEERS, Rows, read
from benchmarks.training.runs import CACHE, OURS, RATES, SETS, TEST_ROWS, draw, macro_f1

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone

BATCH = 32  # Trainer's, in `peers`
LEAST_STEPS = 60
LEAST_EPOCHS = 5


@dataclass(frozen=True)
class Score:
    """One run.

    Attributes:
        data: the set.
        rows: training rows, or a class with `per_class`.
        per_class: whether `rows` counts a class.
        seed: of the draw of the rows, and of training.
        contestant: who.
        macro_f1: on the test rows.
        right: for each test row whether the answer was right.
        note: the strategy that `auto` took, or the rate.
        rate: of a peer that was tuned.
    """

    data: str
    rows: int
    per_class: bool
    seed: int
    contestant: str
    macro_f1: float
    right: list[bool]
    note: str = ""
    rate: float | None = None

    @property
    def key(self) -> tuple[str, int, bool, int, str]:
        """What is made once."""
        return self.data, self.rows, self.per_class, self.seed, self.contestant


@dataclass
class Bench:
    """Makes runs on one backbone.

    Attributes:
        folder: for the files of rows.
        rates: of peers, by set, rows and peer, as far as they were looked for.
    """

    folder: Path
    rates: dict[tuple[str, int, bool, str], float] = field(default_factory=dict)

    @cached_property
    def backbone(self) -> Backbone:
        """MiniLM-L6 in float32."""
        from benchmarks.recommend import load

        return load("minilm")

    def score(self, data: str, rows: int, per_class: bool, seed: int, contestant: str) -> Score:
        """Train and judge one contestant."""
        train, test = (read(file) for file in draw(self.folder, data, rows, per_class, seed))
        note, rate = "", None
        if contestant in OURS:
            predicted, note = self._ours(contestant, train, test[0], seed)
        elif contestant in RATES:
            rate = self._rate(data, rows, per_class, contestant)
            predicted, note = self._peer(contestant, train, test, rate, seed), f"rate {rate:g}"
        else:
            predicted = self._peer(contestant, train, test, 0.0, seed)
        right = [mine == truth for mine, truth in zip(predicted, test[1], strict=True)]
        return Score(data, rows, per_class, seed, contestant, macro_f1(predicted, test[1]), right, note, rate)

    def _ours(self, strategy: str, train: Rows, texts: list[str], seed: int) -> tuple[list[str], str]:
        from graftwork.adaptation.inference import adapted_features, head_logits
        from graftwork.data.dataset import Dataset
        from graftwork.training.config import TrainingConfig
        from graftwork.training.job import train as run

        config = TrainingConfig.parse(strategy=strategy, seed=seed, max_length=MAX_LENGTH, test_share=0.0)
        artifact = run(self.backbone, Dataset.from_lists(*train, source="train.csv"), config=config).artifact
        logits = head_logits(artifact, adapted_features(self.backbone, artifact, texts))
        return [artifact.manifest.labels[column] for column in logits.argmax(axis=1)], artifact.manifest.strategy

    def _peer(self, peer: str, train: Rows, test: Rows, rate: float, seed: int) -> list[str]:
        steps_an_epoch = -(-len(train[0]) // BATCH)
        epochs = max(LEAST_EPOCHS, -(-LEAST_STEPS // steps_an_epoch))
        options = argparse.Namespace(base=CACHE / "models" / "minilm", rate=rate, epochs=epochs, seed=seed)
        return [str(label) for label in PEERS[peer](options, train, test)]

    def _rate(self, data: str, rows: int, per_class: bool, peer: str) -> float:
        """The best rate on a fifth of the first seed's training rows."""
        key = (data, rows, per_class, peer)
        if key not in self.rates:
            texts, labels = read(draw(self.folder, data, rows, per_class, 0)[0])
            cut = len(texts) * 4 // 5
            inner, held = (texts[:cut], labels[:cut]), (texts[cut:], labels[cut:])
            right = {rate: _right(self._peer(peer, inner, held, rate, 0), held[1]) for rate in RATES[peer]}
            best = [rate for rate in RATES[peer] if right[rate] == max(right.values())]
            self.rates[key] = best[len(best) // 2]
        return self.rates[key]


def main() -> None:
    """Make the runs that are missing and print the tables."""
    options = _options()
    scores = _complete(options)
    print(f"{describe()}\npython -m benchmarks.training.accuracy {' '.join(sys.argv[1:])}")
    for data in options.sets:
        mine = [score for score in scores if score.key[:3] == (data, options.rows, options.per_class)]
        print(f"\n{data}, {options.rows} {'a class' if options.per_class else 'rows'}, {TEST_ROWS} test rows\n")
        print(table(mine, options.against))


def _complete(options: argparse.Namespace) -> list[Score]:
    """All runs that there are, once those that were asked for are made; one seed of all sets after the other."""
    folder = options.results.parent / "rows"
    folder.mkdir(parents=True, exist_ok=True)
    lines = options.results.read_text("utf-8").splitlines() if options.results.exists() else []
    scores = [Score(**json.loads(line)) for line in lines]
    known = {score.key for score in scores}
    bench = Bench(folder, {(*score.key[:3], score.contestant): score.rate for score in scores if score.rate})
    for seed, data, contestant in product(range(options.seeds), options.sets, options.only):
        key = (data, options.rows, options.per_class, seed, contestant)
        if key not in known:
            scores.append(bench.score(*key))
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(scores[-1])) + "\n")
            told = f"{data} {seed} {contestant}: {_accuracy(scores[-1]):.1%} {scores[-1].note}"
            print(told, file=sys.stderr, flush=True)
    return scores


def table(scores: Sequence[Score], against: str) -> str:
    """A line for each contestant, in Markdown; differences are paired over seeds and test rows."""
    import numpy as np

    from benchmarks.tasks import paired

    lines = [f"| | seeds | accuracy | macro-F1 | less `{against}`, paired |", "| --- | --- | --- | --- | --- |"]
    theirs = {score.seed: score.right for score in scores if score.contestant == against}
    for contestant in dict.fromkeys(score.contestant for score in scores):
        mine = [score for score in scores if score.contestant == contestant]
        told, both = "", [score for score in mine if score.seed in theirs]
        if both and contestant != against:
            ours = np.array([score.right for score in both], dtype=np.float64)
            other = np.array([theirs[score.seed] for score in both], dtype=np.float64)
            value, low, high = paired(ours, other)
            told = f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        accuracy = np.mean([_accuracy(score) for score in mine])
        f1 = np.mean([score.macro_f1 for score in mine])
        lines.append(f"| {contestant} | {len(mine)} | {accuracy:.1%} | {f1:.1%} | {told} |")
    return "\n".join(lines)


def _accuracy(score: Score) -> float:
    return sum(score.right) / len(score.right)


def _right(predicted: Sequence[str], truth: Sequence[str]) -> int:
    return sum(mine == theirs for mine, theirs in zip(predicted, truth, strict=True))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["tweets", "movies", "headlines"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--per-class", action="store_true", help="--rows counts a class: 8 or 64, say")
    parser.add_argument("--only", nargs="+", choices=(*OURS, *PEERS), default=[*OURS, "tfidf", "trainer-lora"])
    parser.add_argument("--against", choices=(*OURS, *PEERS), default="trainer-lora", help="whom all are compared with")
    parser.add_argument("--results", type=Path, default=CACHE / "bench" / "training" / "accuracy.jsonl")
    return parser.parse_args()


if __name__ == "__main__":
    main()
