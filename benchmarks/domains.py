"""Labels of one domain, rows without labels of another: `python -m benchmarks.domains [--targets …] [--seeds 5]`.

Film reviews are labelled; tweets and Amazon reviews are not. For each seed the same labelled rows (three moods) and the
same number of unlabelled rows are drawn, and every method is judged on the same test rows of the target.
Source-only is `none`; the oracle is trained on the labels of those target rows. All methods but the oracle see no
label of the target. `auto` is made of the same candidates, by the choice that `--adaptation auto` makes; it is not
trained anew.

Two levels: `probe` (feature extraction), where a text is read once for all runs, and `lora`, with fewer rows. Every run
is written to `--results` as it ends, and runs that are there are not made again.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock, patch

import numpy as np
import torch

from benchmarks.machine import describe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graftwork.backbones.backbone import Backbone
    from graftwork.data.dataset import Dataset

CACHE = Path(__file__).parents[1] / ".cache" / "graftwork"
LEVELS = {
    "probe": ("none", "self-training", "oracle"),
    "lora": ("none", "gradual-unfreezing", "adversarial", "self-training", "continued-pretraining", "oracle"),
}
STRATEGIES = {"probe": "feature-extraction", "lora": "lora"}
ROWS = {"probe": 1000, "lora": 400}
TEST_ROWS = {"probe": 1000, "lora": 500}
TOKENS = {"probe": 64, "lora": 48}
Run = dict[str, Any]
Key = tuple[str, str, int, str]


def main() -> None:
    """Make the runs that are missing and print the tables."""
    options = _options()
    options.results.parent.mkdir(parents=True, exist_ok=True)
    done = _read(options.results)
    print(describe())
    print(f"python -m benchmarks.domains {' '.join(sys.argv[1:])}".rstrip())
    made = 0
    for level in options.levels:
        backbone = None
        for seed in range(options.seeds):
            for target in options.targets:
                for method in LEVELS[level]:
                    key = (level, target, seed, method)
                    if key in done or made == options.most:
                        continue
                    backbone = backbone or open_backbone(remember=level == "probe")
                    done[key], made = _run(backbone, *key), made + 1
                    with options.results.open("a") as lines:
                        lines.write(json.dumps(done[key]) + "\n")
                    print(f"{key}: {np.mean(done[key]['right']):.1%}", file=sys.stderr, flush=True)
    for level in options.levels:
        for target in options.targets:
            _print_table(level, target, options.seeds, done)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=["tweets", "amazon"])
    parser.add_argument("--levels", nargs="+", choices=LEVELS, default=["probe", "lora"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--most", type=int, help="make at most so many runs; 0 only prints what is there")
    parser.add_argument("--results", type=Path, default=CACHE / "bench" / "domains" / "runs.jsonl")
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


def _run(backbone: Backbone, level: str, target: str, seed: int, method: str) -> Run:
    from graftwork.adaptation.inference import adapted_features, head_logits, probabilities
    from graftwork.data.unlabelled import unlabelled
    from graftwork.training.config import TrainingConfig
    from graftwork.training.domains.choice import chosen_by_scores
    from graftwork.training.job import train

    films, theirs = (draw_rows(name, "train", seed, ROWS[level]) for name in ("movies", target))
    test = draw_rows(target, "test", 0, TEST_ROWS[level])
    oracle = method == "oracle"
    values: dict[str, Any] = {
        "strategy": STRATEGIES[level],
        "seed": seed,
        "max_length": TOKENS[level],
        "test_share": 0.0,
    }
    if not oracle:
        values["adaptation"] = method
    with patch("graftwork.training.domains.adapt.chosen_by_scores", wraps=chosen_by_scores) as choice:
        trained = train(
            backbone,
            theirs if oracle else films,
            adapt_to=None if oracle else unlabelled(theirs.texts),
            config=TrainingConfig.parse(**values),
        )
    artifact = trained.artifact
    manifest = artifact.manifest
    answers = {
        name: probabilities(head_logits(artifact, adapted_features(backbone, artifact, texts)), manifest.temperature)
        for name, texts in (("test", test.texts), ("target", theirs.texts))
    }
    truth = np.array([manifest.labels.index(label) for label in test.labels])
    record = manifest.adaptation
    return {
        "level": level,
        "target": target,
        "seed": seed,
        "method": method,
        "right": (answers["test"].argmax(axis=1) == truth).astype(int).tolist(),
        "target_answers": np.round(answers["target"], 5).tolist(),
        "held_out": None if oracle else _held_out(choice, method),
        "scores": None if record is None else record.considered[0]["scores"],
        "shift": None if record is None else record.shift,
        "decision": manifest.decision,
        "warnings": [one.code for one in manifest.warnings],
        "temperature": manifest.temperature,
        "seconds": trained.record["seconds"]["strategy"],
    }


def _held_out(choice: Mock, method: str) -> Run:
    """What the choice was given of the labelled validation rows."""
    _, held_out, labels, weights = choice.call_args.args
    return {"answers": held_out[method].tolist(), "labels": labels.tolist(), "weights": weights.tolist()}


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


def _print_table(level: str, target: str, seeds: int, done: dict[Key, Run]) -> None:
    """Mean accuracy; the difference to source-only is paired over test rows and seeds, with a bootstrap over rows."""
    methods = [method for method in LEVELS[level] if (level, target, 0, method) in done]
    if "none" not in methods:
        return
    whole = [seed for seed in range(seeds) if all((level, target, seed, method) in done for method in methods)]
    print(f"\n{level}, films -> {target}, {len(whole)} seeds, {ROWS[level]} + {ROWS[level]} rows, ", end="")
    print(f"{TEST_ROWS[level]} test rows of the target")
    print(f"{'':<24}{'accuracy':>10}   less source-only [95 %]")
    right = {method: [np.array(done[level, target, seed, method]["right"]) for seed in whole] for method in methods}
    taken = {seed: _auto(level, target, seed, methods, done) for seed in whole}
    right["auto"] = [right[taken[seed]][place] for place, seed in enumerate(whole)]
    for method, rows in right.items():
        mean = np.mean(rows)
        print(f"{method:<24}{mean:>10.1%}   {difference(rows, right['none'])}")
    print("auto took " + ", ".join(taken[seed] for seed in whole))


def _auto(level: str, target: str, seed: int, methods: list[str], done: dict[Key, Run]) -> str:
    """What the choice takes among the candidates of a seed."""
    from graftwork.training.domains.choice import chosen_by_scores

    runs: dict[Any, Run] = {method: done[level, target, seed, method] for method in methods if method != "oracle"}
    answers = {method: np.array(run["target_answers"]) for method, run in runs.items()}
    held_out = {method: np.array(run["held_out"]["answers"]) for method, run in runs.items()}
    labels, weights = (np.array(runs["none"]["held_out"][name]) for name in ("labels", "weights"))
    return str(chosen_by_scores(answers, held_out, labels, weights).method)


def difference(mine: list[Any], theirs: list[Any]) -> str:
    """Mean difference of paired rows over all seeds, with a 95 % bootstrap interval over rows."""
    by_row = np.mean([one - other for one, other in zip(mine, theirs, strict=True)], axis=0)
    draws = np.random.default_rng(0).integers(len(by_row), size=(2000, len(by_row)))
    low, high = np.quantile(by_row[draws].mean(axis=1), [0.025, 0.975])
    return f"{by_row.mean():+.1%} [{low:+.1%}, {high:+.1%}]"


def _read(results: Path) -> dict[Key, Run]:
    if not results.exists():
        return {}
    runs = [json.loads(line) for line in results.read_text().splitlines()]
    return {(run["level"], run["target"], run["seed"], run["method"]): run for run in runs}


if __name__ == "__main__":
    main()
