"""One fine-tune that goes on with another domain, by one method."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from graftwork.adaptation.inference import adapted_features, head_logits
from graftwork.backbones.backbone import Backbone
from graftwork.backbones.inspect import inspect_model
from graftwork.backbones.load import load_backbone
from graftwork.data.dataset import Dataset
from graftwork.errors import NotBetter
from graftwork.registry.artifact import Artifact
from graftwork.registry.manifest import Manifest
from graftwork.training.config import TrainingConfig
from graftwork.training.continuing import continue_training
from graftwork.training.job import train

CACHE = Path(__file__).parents[2] / ".cache" / "graftwork"
METHODS = ("none", "l2-sp", "ewc", "replay")
SOURCE, TARGET = "movies", "tweets"
SOURCE_ROWS, TARGET_ROWS, REPLAYED, TEST_ROWS = 400, 300, 100, 400
SETTINGS = ("fine_tuning.epochs=2", "max_length=48", "forgetting.fisher_rows=64")
_KEPT_FOR_TRYING = 500  # rows at the beginning of every file on which strengths are tried, and nothing else


@dataclass(frozen=True)
class Run:
    """What one method did.

    Attributes:
        trying: on the rows on which strengths are tried.
        seed: of the rows and of every random choice.
        method: as the command line says it, a strength behind it when one was tried.
        refused: the gate did not let it pass, so the version before goes on answering.
        size_bytes: bytes of the artifact.
        base_bytes: bytes of the base.
        source_right: rows of the source that it has right.
        source_right_before: those that the fine-tune it began with had right.
        target_right: rows of the target that it has right.
        target_right_before: the same before.
    """

    trying: bool
    seed: int
    method: str
    refused: bool
    size_bytes: int
    base_bytes: int
    source_right: list[bool]
    source_right_before: list[bool]
    target_right: list[bool]
    target_right_before: list[bool]

    @property
    def key(self) -> tuple[bool, int, str]:
        """What tells it from other runs."""
        return self.trying, self.seed, self.method

    @property
    def source(self) -> float:
        """Accuracy on the source."""
        return float(np.mean(self.source_right))

    @property
    def source_before(self) -> float:
        """Accuracy on the source before."""
        return float(np.mean(self.source_right_before))

    @property
    def target(self) -> float:
        """Accuracy on the target."""
        return float(np.mean(self.target_right))


def read_runs(results: Path) -> list[Run]:
    """The runs that are done."""
    if not results.exists():
        return []
    return [Run(**json.loads(line)) for line in results.read_text().splitlines()]


class Bench:
    """Makes runs; the fine-tune on the source is made once a seed.

    Args:
        results: the runs that are done; those fine-tunes are kept beside it.
        trying: on the rows on which strengths are tried.
    """

    def __init__(self, results: Path, *, trying: bool) -> None:
        self._results = results
        self._folder = results.parent
        self._trying = trying

    @cached_property
    def backbone(self) -> Backbone:
        """MiniLM in float32."""
        return open_minilm()

    def run(self, seed: int, method: str) -> Run:
        """Go on with the seed's fine-tune by a method, and judge what would be published."""
        before = self._before(seed)
        protection, _, strength = method.partition(" ")
        chosen = [*SETTINGS, f"forgetting.protection={protection}", f"seed={seed}"]
        config = TrainingConfig.parse(
            strategy="full", assignments=[*chosen, *([f"forgetting.strength={strength}"] if strength else [])]
        )
        old = self._train_rows(SOURCE, REPLAYED, seed) if protection == "replay" else None
        refused = False
        try:
            rows = self._train_rows(TARGET, TARGET_ROWS, seed)
            after = continue_training(self.backbone, before, rows, replay=old, config=config).artifact
        except NotBetter:
            refused, after = True, before
        source, target = (self._test_rows(domain) for domain in (SOURCE, TARGET))
        known = next((one for one in read_runs(self._results) if one.key[:2] == (self._trying, seed)), None)
        return Run(
            trying=self._trying,
            seed=seed,
            method=method,
            refused=refused,
            size_bytes=after.size_bytes,
            base_bytes=sum(part.nbytes for part in self.backbone.model.parameters()),
            source_right=right(self.backbone, after, source),
            source_right_before=known.source_right_before if known else right(self.backbone, before, source),
            target_right=right(self.backbone, after, target),
            target_right_before=known.target_right_before if known else right(self.backbone, before, target),
        )

    def _before(self, seed: int) -> Artifact:
        folder = self._folder / f"source-{'trying-' if self._trying else ''}{seed}"
        if not (folder / "manifest.json").exists():
            config = TrainingConfig.parse(
                strategy="full",
                assignments=[*SETTINGS, "forgetting.keep_fisher=true", "test_share=0", f"seed={seed}"],
            )
            write(train(self.backbone, self._train_rows(SOURCE, SOURCE_ROWS, seed), config=config).artifact, folder)
        return read(folder)

    def _train_rows(self, domain: str, count: int, seed: int) -> Dataset:
        return drawn(domain, "train", count, seed, trying=self._trying)

    def _test_rows(self, domain: str) -> Dataset:
        return drawn(domain, "test", TEST_ROWS, 0, trying=self._trying)


def open_minilm() -> Backbone:
    """MiniLM in float32."""
    folder = CACHE / "models" / "minilm"
    found = inspect_model(folder)
    return load_backbone(
        folder, fingerprint=found.fingerprint, tokenizer=found.tokenizer, metadata=found.metadata, dtype="float32"
    )


def drawn(domain: str, part: str, count: int, seed: int, *, trying: bool = False) -> Dataset:
    """Some rows of a domain; those on which strengths are tried are never among those of other runs."""
    with (CACHE / "datasets" / "sentiment" / domain / f"{part}.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    random.Random(99).shuffle(rows)
    rows = rows[:_KEPT_FOR_TRYING] if trying else rows[_KEPT_FOR_TRYING:]
    random.Random(seed).shuffle(rows)
    return Dataset.from_lists(
        [row["text"] for row in rows[:count]], [row["label"] for row in rows[:count]], source=domain
    )


def right(backbone: Backbone, artifact: Artifact, rows: Dataset, ancestors: Sequence[Artifact] = ()) -> list[bool]:
    """Of each row whether the adapter has it right."""
    features = adapted_features(backbone, artifact, rows.texts, ancestors=ancestors)
    said = head_logits(artifact, features).argmax(axis=1)
    return [artifact.manifest.labels[index] == label for index, label in zip(said, rows.labels, strict=True)]


def write(artifact: Artifact, folder: Path) -> None:
    """Write an artifact to a folder, the manifest last."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in artifact.files.items():
        (folder / name).write_bytes(content)
    (folder / "manifest.json").write_bytes(artifact.manifest_bytes)


def read(folder: Path) -> Artifact:
    """Read one back."""
    manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
    return Artifact(manifest, {file.path: (folder / file.path).read_bytes() for file in manifest.files})
