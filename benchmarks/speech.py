"""The language of a second of speech: `python -m benchmarks.speech [--model FOLDER] [--seeds 0 1 2]`.

The encoder of whisper-base on windows of three seconds, frozen (feature extraction) against adapted (LoRA, and partial
fine-tuning of the upper two of six layers), beside what the most frequent class alone would score. Each seed draws its
own training rows; the test recordings are of other captions. What is measured is kept, so that a run that was stopped
goes on. `--repeat` fills windows by repeating the recording, in place of the silence that Whisper was pretrained with.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks.forgetting.runs import right
from benchmarks.forgetting.table import difference
from benchmarks.kept import CACHE, Kept, drawn, open_backbone
from benchmarks.machine import describe

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone
    from graftwork.data.dataset import Dataset
    from graftwork.data.media import Media

_WAYS = {
    "frozen": ("feature-extraction", []),
    "LoRA": ("lora", ["lora.rank=8", "fine_tuning.epochs=4", "fine_tuning.learning_rate=5e-4"]),
    "partial": ("partial", ["partial.freeze_layers=4", "fine_tuning.epochs=4"]),
}


@dataclass(frozen=True)
class Outcome:
    """One way on one seed: which test rows it has right, and what is stored."""

    way: str
    seed: int
    train: int
    right: list[bool]
    stored_bytes: int


def measure(backbone: Backbone, way: str, seed: int, train_rows: int, test: Dataset) -> Outcome:
    """Train on drawn rows and judge on the test rows."""
    from graftwork.training.config import TrainingConfig
    from graftwork.training.job import train

    strategy, assignments = _WAYS[way]
    config = TrainingConfig.parse(strategy=strategy, seed=seed, assignments=[*assignments, "test_share=0"])
    artifact = train(backbone, drawn(_rows("train"), train_rows, seed), config=config).artifact
    return Outcome(way, seed, train_rows, right(backbone, artifact, test), artifact.size_bytes)


def fill_with_repeats(backbone: Backbone) -> None:
    """Let a backbone's reader repeat a recording until its window is full (CLAP's `repeatpad`, arXiv 2211.06687)."""
    from graftwork.backbones.sounds import SoundReader
    from graftwork.data.recordings import open_recording

    reader = backbone.reader
    assert isinstance(reader, SoundReader)
    extractor = reader.extractor

    def prepare(media: Media) -> NDArray[np.float32]:
        rate = extractor.sampling_rate
        samples = np.resize(open_recording(media, rate), extractor.n_samples)
        features: NDArray[np.float32] = extractor(samples, sampling_rate=rate, return_tensors="np")["input_features"][0]
        return features

    setattr(reader, "prepare", prepare)  # noqa: B010 - a method is replaced on purpose


def print_outcomes(outcomes: list[Outcome], test: Dataset) -> None:
    """Mean accuracy by way, and differences to the frozen encoder that are paired over seeds and test rows."""
    print("| way | seeds | accuracy | less frozen [95 %] | stored |\n| --- | --- | --- | --- | --- |")
    most = Counter(test.labels).most_common(1)[0][1] / len(test)
    print(f"| most frequent class | | {most:.1%} | | |")
    by_way = {way: {one.seed: one for one in outcomes if one.way == way} for way in _WAYS}
    for way, mine in by_way.items():
        if not mine:
            continue
        both = sorted(mine.keys() & by_way["frozen"].keys())
        pairs = [(mine[seed].right, by_way["frozen"][seed].right) for seed in both]
        beside = difference(pairs) if pairs and way != "frozen" else ""
        size = statistics.mean(one.stored_bytes for one in mine.values()) / 1000
        mean = np.mean([one.right for one in mine.values()])
        print(f"| {way} | {len(mine)} | {mean:.1%} | {beside} | {size:,.0f} kB |")


def _rows(part: str) -> Dataset:
    from graftwork.data.read import read_dataset

    return read_dataset(CACHE / "datasets" / "speech" / part)


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=CACHE / "models" / "whisper-base")
    parser.add_argument("--window", type=int, default=3, help="seconds")
    parser.add_argument("--train", type=int, default=600, help="rows")
    parser.add_argument("--test", type=int, default=400, help="rows")
    parser.add_argument("--ways", nargs="+", choices=_WAYS, default=list(_WAYS))
    parser.add_argument("--repeat", action="store_true", help="fill windows by repeating the recording")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    asked = parser.parse_args()
    backbone = open_backbone(asked.model, {"chunk_length": asked.window})
    if asked.repeat:
        fill_with_repeats(backbone)
    kept = Kept(f"speech-{backbone.fingerprint[:12]}{'-repeat' * asked.repeat}", Outcome)
    test = drawn(_rows("test"), asked.test, 0)
    outcomes = [one for one in kept.outcomes() if (one.train, len(one.right)) == (asked.train, len(test))]
    done = {(one.way, one.seed) for one in outcomes}
    for seed in asked.seeds:
        for way in asked.ways:
            if (way, seed) not in done:
                outcomes.append(measure(backbone, way, seed, asked.train, test))
                print(f"{seed} {way}: {np.mean(outcomes[-1].right):.1%}", file=sys.stderr, flush=True)
                kept.add(outcomes[-1])
    seeds = " ".join(map(str, asked.seeds))
    line = (
        f"--window {asked.window} --train {asked.train} --test {asked.test} --seeds {seeds}{' --repeat' * asked.repeat}"
    )
    print(f"\n{describe()}\npython -m benchmarks.speech {line}\n")
    print_outcomes([one for one in outcomes if one.seed in asked.seeds], test)


if __name__ == "__main__":
    main()
