"""Emoji of one vendor labelled, of another not: `python -m benchmarks.domains_pictures [--levels …] [--seeds 5]`.

EfficientNet-lite0 at 112 pixels. For each seed 300 emoji as Google drew them are labelled, and 600 other emoji as
Twitter drew them are not; everything is judged on 566 further emoji as Twitter drew them. Source-only is `none`; the
oracle is trained on the labels of 300 of those 600. Nothing else sees a label of Twitter's.

A run of `--adaptation auto` makes every candidate; each is judged, and so is what the run publishes.

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

from benchmarks.domains import judged, print_table, remember_vectors
from benchmarks.kept import CACHE, open_backbone
from benchmarks.machine import describe
from benchmarks.pictures import PIXELS, rows_of

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone
    from graftwork.data.dataset import Dataset

LABELLED, UNLABELLED = 300, 600
STRATEGIES = {"probe": "feature-extraction", "partial": "partial"}
SETTINGS: dict[str, list[str]] = {
    "probe": [],
    "partial": ["partial.freeze_layers=13", "fine_tuning.epochs=4", "fine_tuning.learning_rate=1e-3"],
}
Run = dict[str, Any]
Key = tuple[str, int]


def main() -> None:
    """Make the runs that are missing and print the tables."""
    options = _options()
    options.results.parent.mkdir(parents=True, exist_ok=True)
    done = _read(options.results)
    print(f"{describe()}\npython -m benchmarks.domains_pictures {' '.join(sys.argv[1:])}".rstrip())
    for level in options.levels:
        missing = [(level, seed) for seed in range(options.seeds) if (level, seed) not in done]
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
                told = ", ".join(f"{way} {np.mean(rows):.1%}" for way, rows in done[key]["right"].items())
                print(f"{key}: {told}", file=sys.stderr, flush=True)
        runs = [done[level, seed] for seed in range(options.seeds) if (level, seed) in done]
        if runs:
            print(f"\n{level}, Google -> Twitter, {len(runs)} seeds\n")
            print_table(runs)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", nargs="+", choices=STRATEGIES, default=["probe", "partial"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--results", type=Path, default=CACHE / "bench" / "domains" / "pictures.jsonl")
    return parser.parse_args()


def _run(backbone: Backbone, level: str, seed: int) -> Run:
    source, target, test = _drawn(seed)
    values = {"strategy": STRATEGIES[level], "seed": seed, "test_share": 0.0, "assignments": SETTINGS[level]}
    oracle = target.select(range(LABELLED))
    return {
        "level": level,
        "seed": seed,
        **judged(backbone, source, target.texts, test, oracle=oracle, values=values),
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


def _read(results: Path) -> dict[Key, Run]:
    if not results.exists():
        return {}
    runs = [json.loads(line) for line in results.read_text().splitlines()]
    return {(run["level"], run["seed"]): run for run in runs}


if __name__ == "__main__":
    main()
