"""What `graft recommend` is worth: `python -m benchmarks.recommend [--cases …] [--limit 200]`.

For each case (a data set and a number of training rows) everything is run: each base with each strategy, on the same
rows, judged on the same test rows. Then the recommendation is made from the training rows alone, and its regret is the
accuracy of the best of everything less that of what was recommended, on the test rows. Time is processor time of this
process, of training alone (the judgement on test rows costs nobody who only wants a classifier anything).

Every result is written to `--results` as it is made, and what is there is not made again, so that a run may be stopped
at any time; with `--limit` it stops by itself before a run that begins after so many seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.machine import describe

if TYPE_CHECKING:
    from torch import Tensor

    from graftwork.backbones.backbone import Backbone
    from graftwork.data.dataset import Dataset

CACHE = Path(".cache/graftwork")
BASES = {"minilm": "", "e5": "query: "}  # with the text that is put before every input
STRATEGIES = ("feature-extraction", "lora", "prefix-tuning", "partial", "full")
SETS = {
    "tweets": "sentiment/tweets",
    "movies": "sentiment/movies",
    "amazon": "sentiment/amazon",
    "editorials": "sentiment/editorials",
    "headlines": "bbc",  # the first line of each article
    "spam": "spam",
    "drugs": "drugs",
}
CASES = (
    "tweets-300", "headlines-100", "amazon-100", "tweets-100", "movies-100", "spam-100", "drugs-100",
    "editorials-100", "headlines-300", "amazon-300", "movies-300", "spam-300", "tweets-1000",
)  # fmt: skip
MAX_LENGTH = 64
TEST_ROWS = 600
SEED = 0


@dataclass(frozen=True)
class Made:
    """One base with one strategy on one case.

    Attributes:
        case: set and rows.
        base: name of the base.
        strategy: what was trained.
        seconds: of the processor, of training.
        right: for each test row 1 where the answer was right.
    """

    case: str
    base: str
    strategy: str
    seconds: float
    right: str

    @property
    def accuracy(self) -> float:
        """Share of the test rows."""
        return self.right.count("1") / len(self.right)


@cache
def load(base: str) -> Backbone:
    """A base, frozen, in float32."""
    from graftwork.backbones.inspect import inspect_model
    from graftwork.backbones.load import load_backbone

    found = inspect_model(CACHE / "models" / base, prompt=BASES[base])
    return load_backbone(
        CACHE / "models" / base,
        fingerprint=found.fingerprint,
        tokenizer=found.tokenizer,
        metadata=found.metadata,
        dtype="float32",
    )


@cache
def rows_of(case: str) -> tuple[Dataset, Dataset]:
    """Training rows, drawn, and test rows."""
    from graftwork.data.clean import clean_dataset
    from graftwork.data.dataset import Dataset
    from graftwork.data.read import read_dataset

    name, count = case.rsplit("-", 1)
    parts = []
    for part, most in (("train", int(count)), ("test", TEST_ROWS)):
        rows = read_dataset(CACHE / "datasets" / SETS[name] / f"{part}.csv")
        if name == "headlines":
            lines = tuple(text.strip().splitlines()[0] for text in rows.texts)
            rows = Dataset(lines, rows.labels, rows.rows, rows.source)
        chosen = np.sort(np.random.default_rng(SEED).permutation(len(rows))[:most])
        parts.append(rows.select(chosen))
    return parts[0], clean_dataset(parts[1])


@cache
def bare(case: str, base: str) -> Tensor:
    """Vectors of the test rows by the bare base: the same for every head on it."""
    return load(base).embed(rows_of(case)[1].texts, max_length=MAX_LENGTH)


def make(case: str, base: str, strategy: str) -> Made:
    """Train and judge."""
    from graftwork.adaptation.inference import features_on_top, head_logits
    from graftwork.training.config import TrainingConfig
    from graftwork.training.job import train

    config = TrainingConfig(strategy=strategy, seed=SEED, max_length=MAX_LENGTH, test_share=0)
    rows, test = rows_of(case)
    backbone = load(base)
    began = time.process_time()
    artifact = train(backbone, rows, config=config).artifact
    seconds = time.process_time() - began
    features = features_on_top(backbone, artifact, test.texts) if artifact.manifest.tensors else bare(case, base)
    found = head_logits(artifact, features).argmax(axis=1)
    right = [artifact.manifest.labels[index] == label for index, label in zip(found, test.labels, strict=True)]
    return Made(case, base, strategy, round(seconds, 3), "".join("01"[one] for one in right))


def kept(file: Path) -> dict[tuple[str, str, str], Made]:
    """What was made before."""
    lines = file.read_text().splitlines() if file.exists() else []
    return {(one.case, one.base, one.strategy): one for one in (Made(**json.loads(line)) for line in lines)}


def main() -> None:
    """Make what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds after which nothing is begun")
    parser.add_argument("--results", type=Path, default=CACHE / "bench" / "recommend.jsonl")
    options = parser.parse_args()
    options.results.parent.mkdir(parents=True, exist_ok=True)
    done = kept(options.results)
    began = time.monotonic()
    for case in options.cases:
        for base in BASES:
            for strategy in STRATEGIES:
                if (case, base, strategy) in done or time.monotonic() - began > options.limit:
                    continue
                one = done[case, base, strategy] = make(case, base, strategy)
                with options.results.open("a") as lines:
                    lines.write(json.dumps(asdict(one)) + "\n")
                print(f"{case} {base} {strategy}: {one.seconds:.1f} s, {one.accuracy:.1%}", file=sys.stderr, flush=True)
    print(describe())


if __name__ == "__main__":
    main()
