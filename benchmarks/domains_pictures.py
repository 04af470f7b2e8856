"""Emoji of one vendor labelled, of another not: `python -m benchmarks.domains_pictures [--levels …] [--seeds 5]`.

EfficientNet-lite0 at 112 pixels. For each seed 300 emoji as Google drew them are labelled, and 600 other emoji as
Twitter drew them are not; everything is judged on 566 further emoji as Twitter drew them. Source-only is `none`; the
oracle is trained on the labels of 300 of those 600. Nothing else sees a label of Twitter's.

Two levels: `probe` (feature extraction), where a picture is read once for all runs, and `partial` (the upper 3 of 16
blocks trained). Every run is written to `--results` as it ends, and runs that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.domains import difference, remember_vectors
from benchmarks.kept import CACHE, open_backbone
from benchmarks.machine import describe
from benchmarks.pictures import PIXELS, rows_of

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone
    from graftwork.data.dataset import Dataset

LABELLED, UNLABELLED = 300, 600
LEVELS = {
    "probe": ("none", "self-training", "auto", "oracle"),
    "partial": ("none", "gradual-unfreezing", "adversarial", "self-training", "oracle"),
}
STRATEGIES = {"probe": "feature-extraction", "partial": "partial"}
SETTINGS: dict[str, list[str]] = {
    "probe": [],
    "partial": ["partial.freeze_layers=13", "fine_tuning.epochs=4", "fine_tuning.learning_rate=1e-3"],
}
Run = dict[str, Any]
Key = tuple[str, int, str]


def main() -> None:
    """Make the runs that are missing and print the tables."""
    options = _options()
    options.results.parent.mkdir(parents=True, exist_ok=True)
    done = _read(options.results)
    print(f"{describe()}\npython -m benchmarks.domains_pictures {' '.join(sys.argv[1:])}".rstrip())
    for level in options.levels:
        missing = [
            (level, seed, method)
            for seed in range(options.seeds)
            for method in LEVELS[level]
            if (level, seed, method) not in done
        ]
        if missing and not options.table:
            backbone = open_backbone(
                CACHE / "models" / "efficientnet-lite0", {"size": {"height": PIXELS, "width": PIXELS}}
            )
            if level == "probe":
                remember_vectors(backbone)
            for key in missing:
                done[key] = _run(backbone, *key)
                with options.results.open("a") as lines:
                    lines.write(json.dumps(done[key]) + "\n")
                print(f"{key}: {np.mean(done[key]['right']):.1%}", file=sys.stderr, flush=True)
        _print_table(level, options.seeds, done)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", nargs="+", choices=LEVELS, default=["probe", "partial"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--results", type=Path, default=CACHE / "bench" / "domains" / "pictures.jsonl")
    return parser.parse_args()


def _run(backbone: Backbone, level: str, seed: int, method: str) -> Run:
    from graftwork.adaptation.inference import adapted_features, head_logits
    from graftwork.data.unlabelled import unlabelled
    from graftwork.training.config import TrainingConfig
    from graftwork.training.job import train

    source, target, test = _drawn(seed)
    oracle = method == "oracle"
    values: dict[str, Any] = {"strategy": STRATEGIES[level], "seed": seed, "test_share": 0.0}
    if not oracle:
        values["adaptation"] = method
    trained = train(
        backbone,
        target.select(range(LABELLED)) if oracle else source,
        adapt_to=None if oracle else unlabelled(target.texts),
        config=TrainingConfig.parse(**values, assignments=SETTINGS[level]),
    )
    manifest = trained.artifact.manifest
    logits = head_logits(trained.artifact, adapted_features(backbone, trained.artifact, test.texts))
    truth = np.array([manifest.labels.index(label) for label in test.labels])
    record = manifest.adaptation
    return {
        "level": level,
        "seed": seed,
        "method": method,
        "right": (logits.argmax(axis=1) == truth).astype(int).tolist(),
        "taken": None if record is None else record.method,
        "shift": None if record is None else record.shift,
        "decision": manifest.decision,
        "warnings": [one.code for one in manifest.warnings],
    }


def _drawn(seed: int) -> tuple[Dataset, Dataset, Dataset]:
    """Labelled rows of Google's, other emoji of Twitter's, and the test rows of Twitter's."""
    google, twitter = rows_of("google", "train"), rows_of("twitter", "train")
    order = np.random.default_rng(seed).permutation(len(google))
    source = google.select(order[:LABELLED])
    known = {Path(_name(item)).stem for item in source.texts}
    others = [place for place in order[LABELLED:] if Path(_name(twitter.texts[place])).stem not in known]
    return source, twitter.select(others[:UNLABELLED]), rows_of("twitter", "test")


def _name(item: str) -> str:
    from graftwork.data.media import shown

    return shown(item)


def _print_table(level: str, seeds: int, done: dict[Key, Run]) -> None:
    methods = LEVELS[level]
    whole = [seed for seed in range(seeds) if all((level, seed, method) in done for method in methods)]
    if not whole:
        return
    shifts = [done[level, seed, "none"]["shift"]["domain_auc"]["value"] for seed in whole]
    print(f"\n{level}, Google -> Twitter, {len(whole)} seeds; AUC of the domains {np.mean(shifts):.3f}")
    right = {method: [np.array(done[level, seed, method]["right"]) for seed in whole] for method in methods}
    print("| way | accuracy | less source-only |\n| --- | --- | --- |")
    for method, rows in right.items():
        print(f"| {method} | {np.mean(rows):.1%} | {difference(rows, right['none'])} |")
    for method in methods:
        told = sorted({code for seed in whole for code in done[level, seed, method]["warnings"]})
        if told:
            print(f"{method} was warned of: {', '.join(told)}")
    if "auto" in methods:
        print("auto took " + ", ".join(str(done[level, seed, "auto"]["taken"]) for seed in whole))


def _read(results: Path) -> dict[Key, Run]:
    if not results.exists():
        return {}
    runs = [json.loads(line) for line in results.read_text().splitlines()]
    return {(run["level"], run["seed"], run["method"]): run for run in runs}


if __name__ == "__main__":
    main()
