"""A hundred A/A comparisons: `python -m benchmarks.same [--sets tweets amazon movies headlines]`.

How often does the comparison call two classifiers different that are the same? Classifiers are probes on MiniLM's
vectors, of one recipe, from training rows drawn at random without a row in common; test rows are drawn from what is
left. They are compared by what `graft compare` calls, and by what `graft evaluate --transfer` calls, with two
references at once, which is called different where either of the two is. Two nulls are asked about:

- **swapped**: whose answer to a row is whose is drawn by a coin for each row. Then no answer belongs to either, and the
  null of the test holds exactly, whatever the classifiers are.
- **same recipe**: the classifiers as they are. They learned from other rows, so that on all rows there could be one is
  a little better than the other: to call that different is not wrong, but it is not what an A/A test is asked for.

What was asked: at most 8 of 100 called different. Texts are read through the base once; the vectors are kept in
.cache/graftwork/bench/same. Needs `scripts/fetch_models.py minilm` and `scripts/fetch_datasets.py sentiment bbc`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe
from graftwork.evaluation.comparison import compare_classifiers
from graftwork.evaluation.transfer import ReferenceRun, compare_with_references

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_CACHE = Path(".cache/graftwork")
_FOLDER = _CACHE / "bench" / "same"
_SETS = {"tweets": "sentiment/tweets", "amazon": "sentiment/amazon", "movies": "sentiment/movies", "headlines": "bbc"}
_MAX_LENGTH = 64
_MOST_ROWS = 5_000
_REFERENCES = 2
_PENALTY = 0.03  # near what cross-validation takes for these rows; a recipe holds it fixed


@dataclass(frozen=True)
class Rows:
    """All rows of a set.

    Attributes:
        vectors: of the base, float32 `[rows, width]`.
        labels: class indices `[rows]`.
    """

    vectors: NDArray[np.float32]
    labels: Ints


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=_SETS, default=list(_SETS))
    parser.add_argument("--comparisons", type=int, default=100, help="of all sets together")
    parser.add_argument("--train-rows", type=int, default=1_000, help="of each classifier at most")
    parser.add_argument("--test-rows", type=int, default=500, help="of each comparison")
    options = parser.parse_args()
    each = options.comparisons // len(options.sets)
    called: dict[tuple[str, str], Counter[str]] = {}
    told: list[str] = []
    for name in options.sets:
        rows = _rows(name)
        count = min(options.train_rows, (len(rows.labels) - options.test_rows) // (1 + _REFERENCES))
        told.append(f"{name} {count:,} of {len(rows.labels):,}")
        for seed in range(each):
            answers, truth = _drawn(rows, count, options.test_rows, seed)
            for null, shown in (("swapped", _swapped(answers, seed)), ("same recipe", answers)):
                for way, different in _called(shown, truth):
                    called.setdefault((null, way), Counter())[name] += different
    print(describe())
    print(f"python -m benchmarks.same --train-rows {options.train_rows} --test-rows {options.test_rows}")
    print(f"Rows that each classifier learned from: {', '.join(told)}.\n")
    print(f"| null | compared by | called different | {' | '.join(options.sets)} |")
    print("| --- " * (3 + len(options.sets)) + "|")
    for (null, way), counts in called.items():
        by_set = " | ".join(f"{counts[name]} of {each}" for name in options.sets)
        print(f"| {null} | {way} | {sum(counts.values())} of {each * len(options.sets)} | {by_set} |")


def _called(answers: list[Floats], truth: Ints) -> Iterator[tuple[str, bool]]:
    """Whether each way of comparing calls the first of these classifiers different from others."""
    labels = [str(index) for index in range(answers[0].shape[1])]
    two = compare_classifiers({"a": answers[0], "b": answers[1]}, truth, labels)
    yield "graft compare", two.challenges[0].verdict != "no difference shown"
    runs = [ReferenceRun(one, 1.0) for one in answers]
    found = compare_with_references(runs[0], {str(place): run for place, run in enumerate(runs[1:])}, truth)
    yield f"--transfer, {len(runs) - 1} references", any(one.verdict != "no difference shown" for one in found)


def _swapped(answers: list[Floats], seed: int) -> list[Floats]:
    """The same answers, each row's dealt out to the classifiers anew."""
    stacked = np.stack(answers)
    order = np.random.default_rng([seed, 1]).permuted(np.tile(np.arange(len(answers)), (stacked.shape[1], 1)), axis=1)
    return [stacked[order[:, place], np.arange(stacked.shape[1])] for place in range(len(answers))]


def _drawn(rows: Rows, train_rows: int, test_rows: int, seed: int) -> tuple[list[Floats], Ints]:
    """Probabilities `[test rows, classes]` of classifiers from rows drawn apart, and the truth of the test rows."""
    from graftwork.adaptation.inference import probabilities
    from graftwork.training.probe import Linear, fit_head

    order = np.random.default_rng(seed).permutation(len(rows.labels))
    test, rest = order[:test_rows], order[test_rows:]
    classes, answers = int(rows.labels.max()) + 1, []
    for place in range(1 + _REFERENCES):
        mine = rest[place * train_rows : (place + 1) * train_rows]
        weight, bias = fit_head(rows.vectors[mine], rows.labels[mine], classes=classes, penalty=_PENALTY)
        answers.append(probabilities(Linear(weight, bias).logits(rows.vectors[test]), 1.0))
    return answers, rows.labels[test]


def _rows(name: str) -> Rows:
    """The vectors of a set, read once."""
    kept = _FOLDER / f"{name}.npz"
    if not kept.exists():
        _FOLDER.mkdir(parents=True, exist_ok=True)
        vectors, labels = _read(name)
        np.savez(kept, vectors=vectors, labels=labels)
    found = np.load(kept)
    return Rows(found["vectors"], found["labels"])


def _read(name: str) -> tuple[NDArray[np.float32], Ints]:
    """Every distinct text of a set through the base."""
    from benchmarks.recommend import load
    from graftwork.data.clean import clean_dataset
    from graftwork.data.dataset import Dataset
    from graftwork.data.read import read_dataset

    parts = [read_dataset(_CACHE / "datasets" / _SETS[name] / f"{part}.csv") for part in ("train", "test")]
    texts = [text for part in parts for text in part.texts]
    if name == "headlines":
        texts = [text.strip().splitlines()[0] for text in texts]
    labels = [label for part in parts for label in part.labels]
    rows = clean_dataset(Dataset(tuple(texts), tuple(labels), tuple(range(len(texts))), name))
    if len(rows) > _MOST_ROWS:
        rows = rows.select(np.sort(np.random.default_rng(0).permutation(len(rows))[:_MOST_ROWS]))
    place = {label: index for index, label in enumerate(rows.label_names)}
    vectors = load("minilm").embed(rows.texts, max_length=_MAX_LENGTH).numpy()
    return vectors, np.array([place[label] for label in rows.labels], dtype=np.int64)


if __name__ == "__main__":
    main()
