"""What `graft recommend` is worth: `python -m benchmarks.recommend [--cases …] [--limit 200]`.

For each case (a data set and a number of training rows) everything is run: each base with each strategy, on the same
rows, judged on the same test rows. Then the recommendation is made from the training rows alone, and its regret is the
accuracy of the best of everything less that of what was recommended, on the test rows. The best of ten on few rows is
also the luckiest: a second regret is against what is best on one half of the test rows, measured on the other half.

Time is processor time of this process, of training and of recommending alone: judging on test rows and loading bases
are not counted on either side. A recommendation may take `BUDGET` of what everything took. It is made without history,
and with a history of the other sets' runs, as a registry would have it. The rule of thumb alone takes the smaller base.

Cases named `SET/dev-ROWS` are drawn from the training file alone, training and test rows, by another seed: what is
changed in the way to recommend is chosen by these, so that the test rows of the others have no part in it.

Every result is written to `--results` as it is made, and what is there is not made again, so that a run may be stopped
at any time; with `--limit` it stops by itself before a run that begins after so many seconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.machine import describe

if TYPE_CHECKING:
    from torch import Tensor

    from graftwork.backbones.backbone import Backbone
    from graftwork.data.dataset import Dataset
    from graftwork.training.recommending.experience import Experience

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
    "tweets-300", "headlines-100", "amazon-100", "tweets-100", "spam-100", "drugs-100",
    "editorials-100", "headlines-300", "amazon-300", "movies-300", "spam-300", "tweets-1000",
)  # fmt: skip
DEVELOPMENT = "/dev"
MAX_LENGTH = 64
TEST_ROWS = 600
SEED = 0
BUDGET = 0.145


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
    source = name.removesuffix(DEVELOPMENT)

    def read(part: str) -> Dataset:
        rows = read_dataset(CACHE / "datasets" / SETS[source] / f"{part}.csv")
        if source != "headlines":
            return rows
        lines = tuple(text.strip().splitlines()[0] for text in rows.texts)
        return Dataset(lines, rows.labels, rows.rows, rows.source)

    def drawn(rows: Dataset, first: int, last: int, seed: int) -> Dataset:
        return rows.select(np.sort(np.random.default_rng(seed).permutation(len(rows))[first:last]))

    train, most = read("train"), int(count)
    if source != name:
        return drawn(train, 0, most, SEED + 1), clean_dataset(drawn(train, most, most + TEST_ROWS, SEED + 1))
    return drawn(train, 0, most, SEED), clean_dataset(drawn(read("test"), 0, TEST_ROWS, SEED))


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


@dataclass(frozen=True)
class Recommended:
    """A recommendation for one case.

    Attributes:
        case: set and rows.
        history: whether it had the other sets' runs for its experience.
        seconds: of the processor that it took.
        base: that was recommended.
        strategy: that was recommended.
        rule: the strategy by the rule of thumb alone.
        trials: how many were made.
        expected: limits of the expected accuracy of each candidate, by `base strategy`.
    """

    case: str
    history: bool
    seconds: float
    base: str
    strategy: str
    rule: str
    trials: int
    expected: dict[str, tuple[float, float]]


def advise(case: str, everything: list[Made], others: list[Made], *, history: bool) -> Recommended:
    """Recommend from the training rows, in a share of the time that everything took."""
    from graftwork.backbones.inspect import inspect_model
    from graftwork.training.config import TrainingConfig
    from graftwork.training.recommending.clock import Budget
    from graftwork.training.recommending.experience import Experience
    from graftwork.training.recommending.recommend import OfferedBase, recommend

    bases = [
        OfferedBase(name, inspect_model(CACHE / "models" / name, prompt=prompt).metadata, partial(load, name))
        for name, prompt in BASES.items()
    ]
    for name in BASES:
        load(name)
    rows, _ = rows_of(case)
    budget = Budget(BUDGET * sum(one.seconds for one in everything), time.process_time)
    made = recommend(
        rows,
        bases,
        budget=budget,
        config=TrainingConfig(seed=SEED, max_length=MAX_LENGTH, test_share=0),
        experience=experience(others) if history else Experience(),
    )
    assert made.chosen is not None
    return Recommended(
        case=case,
        history=history,
        seconds=round(budget.spent, 3),
        base=made.chosen.base,
        strategy=made.chosen.strategy,
        rule=by_rule(case, len(rows)),
        trials=sum(len(one.trials) for one in made.candidates),
        expected={
            f"{one.base} {one.strategy}": (one.accuracy.low, one.accuracy.high)
            for one in made.candidates
            if one.accuracy
        },
    )


def experience(others: list[Made]) -> Experience:
    """What a registry would know of these runs."""
    from graftwork.training.recommending.experience import Experience, Seen

    probes = {(one.case, one.base): one for one in others if one.strategy == "feature-extraction"}
    seen = []
    for one in others:
        probe = probes.get((one.case, one.base))
        if probe is not None and one is not probe:
            mended = (one.accuracy - probe.accuracy) / (1 - probe.accuracy)
            rows = int(one.case.rsplit("-", 1)[1])
            base = load(one.base).fingerprint
            seen.append(Seen(base, one.strategy, rows, mended, len(one.right), probe.accuracy, one.case))
    return Experience(tuple(seen))


def by_rule(case: str, rows: int) -> str:
    """The strategy of the rule of thumb that fits when nothing is measured."""
    from graftwork.training.recommending.rules import Task, by_rules

    classes = len(rows_of(case)[0].label_names)
    return by_rules(Task(rows, classes, rows // 5, parameters=22_713_216, strategies=STRATEGIES)).strategy


def regrets(everything: dict[tuple[str, str], Made], chosen: tuple[str, str]) -> tuple[float, float]:
    """Regret against the best on all test rows; and against the best of one half on the other half, both ways."""
    right = {key: np.array([mark == "1" for mark in one.right]) for key, one in everything.items()}
    ours = right[chosen]
    whole = max(marks.mean() for marks in right.values()) - ours.mean()
    halves = (slice(0, None, 2), slice(1, None, 2))
    crossed = []
    for here, there in (halves, halves[::-1]):
        best = max(right, key=lambda key: right[key][here].mean())
        crossed.append(right[best][there].mean() - ours[there].mean())
    return float(whole), float(np.mean(crossed))


def print_tables(done: dict[tuple[str, str, str], Made], advised: dict[tuple[str, bool], Recommended]) -> None:
    """A line a case, and the means."""
    ways = ("advice", "with history", "rule alone")
    head = ["case", "best of all", "s", *(f"{way} | s | regret | halves" for way in ways[:2])]
    print("| " + " | ".join([*head, f"{ways[2]} | regret | halves |"]) + "\n" + "| --- " * 14 + "|")
    columns: dict[str, list[tuple[float, float, float]]] = {"plain": [], "history": [], "rule": []}
    inside = []
    for case in dict.fromkeys(case for case, _ in advised):
        everything = {(base, strategy): one for (name, base, strategy), one in done.items() if name == case}
        total = sum(one.seconds for one in everything.values())
        best = max(everything.values(), key=lambda one: one.accuracy)
        cells = [case, f"{best.base} {best.strategy} {best.accuracy:.1%}", f"{total:.0f}"]
        for history in (False, True):
            one = advised[case, history]
            found = regrets(everything, (one.base, one.strategy))
            columns["history" if history else "plain"].append((*found, one.seconds / total))
            cells += [f"{one.base} {one.strategy}, {one.trials} trials", f"{one.seconds:.1f}", *_points(found)]
            inside += [
                low <= everything[tuple(key.split(" "))].accuracy <= high  # type: ignore[index]
                for key, (low, high) in one.expected.items()
                if not history
            ]
        rule = ("minilm", advised[case, False].rule)
        found = regrets(everything, rule)
        columns["rule"].append((*found, 0.0))
        print("| " + " | ".join([*cells, " ".join(rule), *_points(found)]) + " |")
    print()
    for name, measured in columns.items():
        whole, crossed, share = np.mean(measured, axis=0)
        print(f"{name}: mean regret {100 * whole:.2f} points, by halves {100 * crossed:.2f}, {share:.1%} of the time")
    print(f"{np.mean(inside):.0%} of {len(inside)} measured accuracies lie within the expected limits")


def _points(found: tuple[float, float]) -> list[str]:
    return [f"{100 * one:.1f}" for one in found]


def kept(file: Path) -> dict[tuple[str, str, str], Made]:
    """What was made before."""
    lines = file.read_text().splitlines() if file.exists() else []
    return {(one.case, one.base, one.strategy): one for one in (Made(**json.loads(line)) for line in lines)}


def main() -> None:
    """Make what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES, help="SET-ROWS, or SET/dev-ROWS")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds after which nothing is begun")
    parser.add_argument("--everything", action="store_true", help="recommend nothing yet")
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
    advice = options.results.with_suffix(".advice.jsonl")
    lines = advice.read_text().splitlines() if advice.exists() else []
    advised = {(one.case, one.history): one for one in (Recommended(**json.loads(line)) for line in lines)}
    whole = [case for case in options.cases if all((case, b, s) in done for b in BASES for s in STRATEGIES)]
    for case, history in itertools.product(whole, (False, True)):
        if (case, history) in advised or time.monotonic() - began > options.limit or options.everything:
            continue
        others = [one for one in done.values() if one.case.rsplit("-", 1)[0] != case.rsplit("-", 1)[0]]
        everything = [one for one in done.values() if one.case == case]
        made = advised[case, history] = advise(case, everything, others, history=history)
        with advice.open("a") as file:
            file.write(json.dumps(asdict(made)) + "\n")
        print(f"{case} {history}: {made.base} {made.strategy}, {made.seconds:.1f} s", file=sys.stderr, flush=True)
    print(f"{describe()}\npython -m benchmarks.recommend --cases {' '.join(whole)}\n")
    both = {case for case, _ in advised if {(case, False), (case, True)} <= advised.keys()}
    if both:
        print_tables(done, {key: one for key, one in advised.items() if key[0] in both})


if __name__ == "__main__":
    main()
