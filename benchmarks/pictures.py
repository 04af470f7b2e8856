"""Emoji of one vendor, learned, and judged on both: `python -m benchmarks.pictures [--model FOLDER] [--seeds 0 1 2]`.

EfficientNet-lite0 frozen (feature extraction) against adapted (partial fine-tuning of its upper blocks), on pictures
that Google drew; the test pictures are other emoji, as Google and as Twitter drew them. Each seed draws its own
training rows. Pictures of 64 pixels are read at 112, half of what the network was pretrained on and a quarter of the
work. What is measured is kept, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import math
import statistics
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.kept import CACHE, Kept, drawn, open_backbone
from benchmarks.machine import describe

if TYPE_CHECKING:
    from torch import Tensor

    from graftwork.backbones.backbone import Backbone
    from graftwork.data.dataset import Dataset
    from graftwork.registry.artifact import Artifact

ROWS = 300
PIXELS = 112
_WAYS = {
    "frozen": ("feature-extraction", []),
    "adapted": ("partial", ["partial.freeze_layers=10", "fine_tuning.epochs=4"]),
    "adapted, rate 1e-3": (
        "partial",
        ["partial.freeze_layers=10", "fine_tuning.epochs=8", "fine_tuning.learning_rate=1e-3"],
    ),
}
_STUDENT = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 8: 2.365, 10: 2.262}  # two-sided 95 %, by seeds


@dataclass(frozen=True)
class Outcome:
    """One way on one seed: accuracy on the pictures of each vendor, and what is stored."""

    way: str
    seed: int
    google: float
    twitter: float
    stored_bytes: int


def measure(backbone: Backbone, way: str, seed: int) -> Outcome:
    """Train on Google's pictures and judge on both vendors'."""
    from graftwork.training.config import TrainingConfig
    from graftwork.training.job import train

    strategy, assignments = _WAYS[way]
    config = TrainingConfig.parse(strategy=strategy, seed=seed, assignments=[*assignments, "test_share=0"])
    artifact = train(backbone, drawn(rows_of("google", "train"), ROWS, seed), config=config).artifact
    google, twitter = (_accuracy(backbone, artifact, vendor) for vendor in ("google", "twitter"))
    return Outcome(way, seed, google, twitter, sum(map(len, artifact.files.values())))


def rows_of(vendor: str, part: str) -> Dataset:
    """The emoji of a vendor; `part` is train or test."""
    from graftwork.data.read import read_dataset

    return read_dataset(CACHE / "datasets" / "emoji" / vendor / part)


@cache
def _bare(backbone: Backbone, vendor: str) -> Tensor:
    """Vectors of the frozen network: the same for all seeds."""
    return backbone.embed(rows_of(vendor, "test").texts)


def _accuracy(backbone: Backbone, artifact: Artifact, vendor: str) -> float:
    import numpy as np

    from graftwork.adaptation.inference import adapted_features, head_logits

    rows = rows_of(vendor, "test")
    features = (
        adapted_features(backbone, artifact, rows.texts) if artifact.manifest.tensors else _bare(backbone, vendor)
    )
    found = head_logits(artifact, features).argmax(axis=1)
    return float(
        np.mean([artifact.manifest.labels[index] == label for index, label in zip(found, rows.labels, strict=True)])
    )


def print_outcomes(outcomes: list[Outcome]) -> None:
    """Means over seeds, and paired differences with 95 % intervals over seeds (Student's t)."""
    by_way = {way: {one.seed: one for one in outcomes if one.way == way} for way in _WAYS}
    print("| way | seeds | Google's, as trained on | Twitter's | stored |\n| --- | --- | --- | --- | --- |")
    for way, mine in by_way.items():
        if mine:
            google, twitter = (statistics.mean(getattr(o, v) for o in mine.values()) for v in ("google", "twitter"))
            size = statistics.mean(o.stored_bytes for o in mine.values())
            print(f"| {way} | {len(mine)} | {google:.1%} | {twitter:.1%} | {size / 1000:,.0f} kB |")
    for way in list(_WAYS)[1:]:
        seeds = sorted(by_way["frozen"].keys() & by_way[way].keys())
        if len(seeds) not in _STUDENT:
            continue
        told = []
        for vendor in ("google", "twitter"):
            gains = [getattr(by_way[way][s], vendor) - getattr(by_way["frozen"][s], vendor) for s in seeds]
            half = _STUDENT[len(seeds)] * statistics.stdev(gains) / math.sqrt(len(gains))
            mean = statistics.mean(gains)
            told.append(f"{mean:+.1%} [{mean - half:+.1%}, {mean + half:+.1%}]")
        print(f"| {way}, less frozen, paired | {len(seeds)} | {told[0]} | {told[1]} | |")


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=CACHE / "models" / "efficientnet-lite0")
    parser.add_argument("--pixels", type=int, default=PIXELS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    arguments = parser.parse_args()
    size = {"height": arguments.pixels, "width": arguments.pixels}
    backbone = open_backbone(arguments.model, {"size": size})
    kept = Kept(f"pictures-{backbone.fingerprint[:12]}", Outcome)
    outcomes = kept.outcomes()
    done = {(one.way, one.seed) for one in outcomes}
    for seed in arguments.seeds:
        for way in _WAYS:
            if (way, seed) not in done:
                outcomes.append(measure(backbone, way, seed))
                kept.add(outcomes[-1])
    command = f"python -m benchmarks.pictures --pixels {arguments.pixels} --seeds {' '.join(map(str, arguments.seeds))}"
    print(f"{describe()}\n{command}; {ROWS} training pictures a seed\n")
    print_outcomes([one for one in outcomes if one.seed in arguments.seeds])


if __name__ == "__main__":
    main()
