"""Labels of one domain, rows without labels of another: `python -m benchmarks.domains [--targets …] [--seeds 5]`.

Film reviews are labelled; tweets and Amazon reviews are not. For each seed the same labelled rows (three moods) and the
same number of unlabelled rows are drawn, and every method is judged on the same test rows of the target.
Source-only is `none`; the oracle is trained on the labels of those target rows, of which nothing else sees one. A run
of `--adaptation auto` makes every candidate; each is judged, and so is what the run publishes.

Two levels: `probe` (feature extraction), where a text is read once for all runs, and `lora`, with fewer rows. Every run
is written to `--results` as it ends, and runs that are there are not made again.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.forgetting.runs import right
from benchmarks.forgetting.table import difference
from benchmarks.machine import describe

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from graftwork.backbones.backbone import Backbone
    from graftwork.data.dataset import Dataset
    from graftwork.training.task import Task

CACHE = Path(__file__).parents[1] / ".cache" / "graftwork"
RESULTS = CACHE / "bench" / "domains" / "runs.jsonl"
METHODS = {
    "probe": ("none", "self-training"),
    "lora": ("none", "gradual-unfreezing", "adversarial", "self-training", "continued-pretraining"),
}
STRATEGIES = {"probe": "feature-extraction", "lora": "lora"}
ROWS = {"probe": 1000, "lora": 200}
TEST_ROWS = {"probe": 1000, "lora": 400}
TOKENS = {"probe": 64, "lora": 32}
Run = dict[str, Any]
Key = tuple[str, str, int]


def main() -> None:
    """Make the runs that are missing and print the tables."""
    options = _options()
    options.results.parent.mkdir(parents=True, exist_ok=True)
    done = read_runs(options.results)
    print(describe())
    print(f"python -m benchmarks.domains {' '.join(sys.argv[1:])}".rstrip())
    made = 0
    for level in options.levels:
        backbone = None
        for seed in range(options.seeds):
            for target in options.targets:
                key = (level, target, seed)
                if key in done or made == options.most:
                    continue
                backbone = backbone or open_backbone(remember=level == "probe")
                done[key], made = _run(backbone, *key), made + 1
                with options.results.open("a") as lines:
                    lines.write(json.dumps(done[key]) + "\n")
                told = ", ".join(f"{way} {np.mean(rows):.1%}" for way, rows in done[key]["right"].items())
                print(f"{key}: {told}", file=sys.stderr, flush=True)
    for level in options.levels:
        _print_tables(level, options.targets, options.seeds, done)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=["tweets", "amazon"])
    parser.add_argument("--levels", nargs="+", choices=METHODS, default=["probe", "lora"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--most", type=int, help="make at most so many runs; 0 only prints what is there")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def open_backbone(*, remember: bool) -> Backbone:
    """MiniLM in float32; `remember` reads each text once."""
    from graftwork.backbones.inspect import inspect_model
    from graftwork.backbones.load import load_backbone

    folder = CACHE / "models" / "minilm"
    found = inspect_model(folder)
    backbone = load_backbone(
        folder, fingerprint=found.fingerprint, tokenizer=found.tokenizer, metadata=found.metadata, dtype="float32"
    )
    if remember:
        remember_vectors(backbone)
    return backbone


def remember_vectors(backbone: Backbone) -> None:
    """Read each text once: nothing is ever attached to the backbone, and every run keeps the same number of tokens."""
    read, known = backbone.embed, dict[str, Any]()

    def embed(texts: Sequence[str], **options: Any) -> Any:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            known.update(zip(new, read(new, **options), strict=True))
        return torch.stack([known[text] for text in texts])

    backbone.embed = embed  # type: ignore[method-assign]


def _run(backbone: Backbone, level: str, target: str, seed: int) -> Run:
    films, theirs = (draw_rows(name, "train", seed, ROWS[level]) for name in ("movies", target))
    test = draw_rows(target, "test", 0, TEST_ROWS[level])
    values = {"strategy": STRATEGIES[level], "seed": seed, "max_length": TOKENS[level], "test_share": 0.0}
    found = judged(backbone, films, theirs.texts, test, oracle=theirs, values=values)
    return {"level": level, "target": target, "seed": seed, **found}


def judged(
    backbone: Backbone,
    labelled: Dataset,
    unlabelled_items: Sequence[str],
    test: Dataset,
    *,
    oracle: Dataset,
    values: dict[str, Any],
) -> Run:
    """Adapt by every method in one run, and judge each candidate, what is published, and the oracle.

    Args:
        backbone: the base.
        labelled: rows of the source.
        unlabelled_items: rows of the target, without labels.
        test: rows of the target that are judged on.
        oracle: rows of the target with labels.
        values: settings of both trainings.
    """
    from graftwork.data.unlabelled import unlabelled
    from graftwork.training.config import TrainingConfig
    from graftwork.training.domains.adapt import _choice
    from graftwork.training.domains.choice import chosen_by_scores
    from graftwork.training.job import train

    with (
        patch("graftwork.training.domains.adapt._choice", wraps=_choice) as candidates,
        patch("graftwork.training.domains.adapt.chosen_by_scores", wraps=chosen_by_scores) as choice,
    ):
        config = TrainingConfig.parse(**values, adaptation="auto")
        published = train(backbone, labelled, adapt_to=unlabelled(unlabelled_items), config=config).artifact
    told = train(backbone, oracle, config=TrainingConfig.parse(**values)).artifact
    task, _, tried = candidates.call_args.args
    answers, held_out, labels, weights = choice.call_args.args
    record = published.manifest.adaptation
    assert record is not None
    return {
        "right": {
            **_right_of_each(task, tried, test),
            "auto": right(backbone, published, test),
            "oracle": right(backbone, told, test),
        },
        "taken": record.method,
        "considered": record.considered,
        "shift": record.shift,
        "warnings": {method: [one.code for one in candidate.warnings] for method, (candidate, _) in tried.items()},
        "told": {method: words for method, (_, words) in tried.items()},
        "target_answers": {method: np.round(rows, 5).tolist() for method, rows in answers.items()},
        "held_out": {method: np.round(rows, 5).tolist() for method, rows in held_out.items()},
        "labels": labels.tolist(),
        "weights": np.round(weights, 5).tolist(),
    }


def _right_of_each(task: Task, tried: dict[str, Any], test: Dataset) -> dict[str, list[bool]]:
    """Of each candidate, which test rows it has right."""
    from graftwork.training.domains.target import Target

    rows = Target(test, task.backbone.embed(test.texts, max_length=task.max_length).numpy())
    names = task.prepared.label_names
    said = {method: rows.answers(task, candidate).argmax(axis=1) for method, (candidate, _) in tried.items()}
    return {
        method: [names[index] == label for index, label in zip(best, test.labels, strict=True)]
        for method, best in said.items()
    }


def draw_rows(name: str, part: str, seed: int, count: int) -> Dataset:
    """Different texts that stand there with one label, drawn with the seed."""
    from graftwork.data.clean import clean_dataset
    from graftwork.data.dataset import Dataset

    with (CACHE / "datasets" / "sentiment" / name / f"{part}.csv").open(encoding="utf-8", newline="") as lines:
        found = list(csv.DictReader(lines))
    rows = clean_dataset(Dataset.from_lists([row["text"] for row in found], [row["label"] for row in found], name))
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    return rows.select(order[:count])


def _print_tables(level: str, targets: Sequence[str], seeds: int, done: dict[Key, Run]) -> None:
    """A table for each target, and the choice beside the candidate that is best on average over all of them."""
    all_runs: list[Run] = []
    for target in targets:
        runs = [done[level, target, seed] for seed in range(seeds) if (level, target, seed) in done]
        if not runs:
            continue
        print(f"\n{level}, films -> {target}, {len(runs)} seeds, {ROWS[level]} + {ROWS[level]} rows, ", end="")
        print(f"{TEST_ROWS[level]} test rows of the target\n")
        print_table(runs)
        all_runs += runs
    if all_runs:
        best = max(METHODS[level], key=lambda method: accuracy(all_runs, method))
        print(
            f"\n{level}, all targets: the choice {accuracy(all_runs, 'auto'):.1%}, less the best on average, ", end=""
        )
        print(f"{best}: {_less(all_runs, 'auto', best)}; less source-only: {_less(all_runs, 'auto', 'none')}")


def print_table(runs: list[Run]) -> None:
    """Mean accuracy, and differences to source-only that are paired over seeds and test rows, both drawn anew."""
    print("| way | accuracy | less source-only [95 %] |\n| --- | --- | --- |")
    for way in runs[0]["right"]:
        beside = "" if way == "none" else _less(runs, way, "none")
        print(f"| {way} | {accuracy(runs, way):.1%} | {beside} |")
    refused = (one["method"] for run in runs for one in run["considered"] if one["refused"])
    warned = (f"{method} {code}" for run in runs for method, codes in run["warnings"].items() for code in codes)
    print(f"\nauto took {_counted(run['taken'] for run in runs)}")
    print(f"refused: {_counted(refused) or 'nothing'}; warned of: {_counted(warned) or 'nothing'}")
    print(f"AUC of the domains: {np.mean([run['shift']['domain_auc']['value'] for run in runs]):.3f}")


def accuracy(runs: list[Run], way: str) -> float:
    """Mean over seeds and test rows."""
    return float(np.mean([run["right"][way] for run in runs]))


def _less(runs: list[Run], way: str, other: str) -> str:
    return difference([(run["right"][way], run["right"][other]) for run in runs])


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in Counter(names).most_common())


def read_runs(results: Path) -> dict[Key, Run]:
    """The runs that are done."""
    if not results.exists():
        return {}
    runs = [json.loads(line) for line in results.read_text().splitlines()]
    return {(run["level"], run["target"], run["seed"]): run for run in runs}


if __name__ == "__main__":
    main()
