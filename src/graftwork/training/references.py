"""Other ways to a classifier from the same rows, to measure an adapter by: from scratch, by the probe, on fewer rows.

    GRAFT_HOME/references/DIGEST.json

A reference is a run like any other, and what it said of the test rows is kept under the digest of everything that
decides it: to ask again costs nothing, and another seed, row or version is another reference.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from graftwork.adaptation.inference import features_on_top, head_logits, probabilities
from graftwork.backbones.scratch import scratch_backbone
from graftwork.data.similar import near_duplicate_groups
from graftwork.data.split import split_dataset
from graftwork.errors import DataRejected
from graftwork.evaluation.metrics import log_losses
from graftwork.evaluation.transfer import ReferenceRun
from graftwork.registry.durable import write_file
from graftwork.training.identity import identity_of
from graftwork.training.job import train
from graftwork.training.progress import Progress, Silent
from graftwork.training.randomness import own_randomness
from graftwork.training.rows import prepare_rows

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone
    from graftwork.data.dataset import Dataset
    from graftwork.registry.artifact import Artifact
    from graftwork.training.config import TrainingConfig

Kind = Literal["transfer", "probe", "scratch", "scratch until it stops"]

_PATIENCE = 4  # evaluations without improvement after which training from scratch is taken to have stopped
_MOST_EPOCHS = 40
_NO_START = 1e6  # a penalty that leaves a head nothing but the share of each class
RATES = (3e-5, 1e-4, 3e-4)
"""Learning rates that training from scratch has the choice of. That of a range test left MiniLM's architecture at
the most frequent class on 800 tweets."""


@dataclass(frozen=True)
class MadeReference(ReferenceRun):
    """A reference that was made, with what the choice of a rate needs.

    Attributes:
        loss: mean log loss on the validation rows; 0 where no rate is chosen.
        learning_rate: the rate; None where it is found or none is needed.
    """

    loss: float
    learning_rate: float | None


@dataclass(frozen=True)
class References:
    """References for one adapter.

    Attributes:
        backbone: the frozen backbone that the adapter was made for.
        rows: the rows it was trained on, validation rows included, test rows not.
        test: the rows to judge on.
        labels: in the order of the columns of all answers.
        config: the settings that the adapter was trained with.
        strategy: the adapter's.
        folder: where what was found is kept; None keeps nothing.
        progress: told of stages and steps.
    """

    backbone: Backbone
    rows: Dataset
    test: Dataset
    labels: tuple[str, ...]
    config: TrainingConfig
    strategy: str
    folder: Path | None = None
    progress: Progress = field(default_factory=Silent)
    _validation: dict[tuple[str, int], Dataset] = field(default_factory=dict, repr=False, compare=False)

    def run(self, kind: Kind, *, count: int | None = None, draw: int = 0) -> MadeReference | None:
        """Make a reference, or take the one that is kept; None when so few rows cannot be trained on.

        Training from scratch has the adapter's architecture with random weights, all of them trained, in as many epochs
        as the adapter may have, or (`scratch until it stops`) until the validation loss no longer falls. Its head
        begins with the share of each class; its learning rate is the one of `RATES` with the best validation loss when
        there are all rows. The seconds are those of training with that rate alone.

        Args:
            kind: what to train: the adapter's own strategy, the probe, or from scratch.
            count: of training rows, drawn with each label's share; all by default.
            draw: which draw of rows; it also changes the seed.

        Raises:
            StorageError: if it cannot be kept.
        """
        rows = self.rows if count is None or count >= len(self.rows) else self._drawn(count, draw)
        if not kind.startswith("scratch"):
            run = self._made(kind, rows, self._config(kind, draw))
        elif kind == "scratch" and rows is self.rows:
            made = [self._made(kind, rows, self._config(kind, draw, rate)) for rate in RATES]
            run = min((one for one in made if one is not None), key=lambda one: one.loss, default=None)
        else:
            whole = self.run("scratch")
            rate = whole.learning_rate if whole is not None else RATES[0]
            run = self._made(kind, rows, self._config(kind, draw, rate))
        return run

    def _made(self, kind: Kind, rows: Dataset, config: TrainingConfig) -> MadeReference | None:
        """A reference with its settings, made or kept."""
        scratch = kind.startswith("scratch")
        identity = identity_of(self.backbone, rows, self.test, config) | {"reference": "scratch" if scratch else "base"}
        kept = self._kept(identity)
        if kept is not None:
            return kept
        rate = config.fine_tuning.learning_rate
        self.progress.note(f"{kind}, {len(rows)} rows" + (f", learning rate {rate:g}" if scratch else ""))
        began = time.perf_counter()
        try:
            artifact, backbone = self._trained(rows, config, scratch=scratch)
        except DataRejected:
            return None
        seconds = time.perf_counter() - began
        self.progress.stage("asking it about the test rows", len(self.test))
        run = MadeReference(
            self.answers(backbone, artifact, self.test.texts),
            seconds,
            loss=self._validation_loss(backbone, artifact, rows, config) if scratch else 0.0,
            learning_rate=rate if isinstance(rate, float) else None,
        )
        self._keep(identity, run)
        return run

    def answers(self, backbone: Backbone, artifact: Artifact, texts: Sequence[str]) -> NDArray[np.float64]:
        """An adapter's probabilities `[texts, labels]`, in the order of `labels`; 0 for labels it does not know."""
        features = features_on_top(backbone, artifact, texts, progress=self.progress.advance)
        own = probabilities(head_logits(artifact, features), artifact.manifest.temperature)
        columns = [self.labels.index(label) for label in artifact.manifest.labels]
        all_labels = np.zeros((len(texts), len(self.labels)))
        all_labels[:, columns] = own
        return all_labels

    def _config(self, kind: Kind, draw: int, rate: float | None = None) -> TrainingConfig:
        seed = (self.config.seed + draw) % 2**32
        changes: dict[str, Any] = {"seed": seed, "strategy": self.strategy}
        if kind == "probe":
            changes["strategy"] = "feature-extraction"
        elif kind.startswith("scratch"):
            tuning: dict[str, Any] = {"learning_rate": rate, "layer_decay": 1.0}
            if kind == "scratch until it stops":
                tuning |= {"epochs": _MOST_EPOCHS, "patience": _PATIENCE, "schedule": "constant"}
            else:
                tuning |= {"patience": self.config.fine_tuning.epochs}
            plain = self.config.feature_extraction.model_copy(update={"penalties": (_NO_START,)})
            changes |= {
                "strategy": "full",
                "feature_extraction": plain,
                "full": self.config.full.model_copy(update={"store": "lossless"}),
                "fine_tuning": self.config.fine_tuning.model_copy(update=tuning),
                "base_dtype": None,
            }
        return self.config.model_copy(update=changes)

    def _drawn(self, count: int, draw: int) -> Dataset:
        groups = near_duplicate_groups(self.rows.texts)
        _, chosen = split_dataset(
            self.rows, groups=groups, share=count / len(self.rows), seed=(self.config.seed + draw) % 2**32
        )
        return self.rows.select(chosen)

    def _trained(self, rows: Dataset, config: TrainingConfig, *, scratch: bool) -> tuple[Artifact, Backbone]:
        backbone = self.backbone
        if scratch:
            with own_randomness(config.seed, backbone.device):
                backbone = scratch_backbone(backbone)
        return train(backbone, rows, test=self.test, config=config, progress=self.progress).artifact, backbone

    def _validation_rows(self, rows: Dataset, config: TrainingConfig) -> Dataset:
        """The same for all rates; looking for near-duplicates takes long, so it is done once."""
        if (rows.digest, config.seed) not in self._validation:
            prepared = prepare_rows(rows, self.test, config)
            self._validation[rows.digest, config.seed] = prepared.rows.select(prepared.validation)
        return self._validation[rows.digest, config.seed]

    def _validation_loss(self, backbone: Backbone, artifact: Artifact, rows: Dataset, config: TrainingConfig) -> float:
        validation = self._validation_rows(rows, config)
        answers = self.answers(backbone, artifact, validation.texts)
        truth = np.array([self.labels.index(label) for label in validation.labels], dtype=np.int64)
        return float(log_losses(answers, truth).mean())

    def _path(self, identity: dict[str, str]) -> Path | None:
        if self.folder is None:
            return None
        content = json.dumps([identity, self.labels], sort_keys=True).encode()
        return self.folder / f"{hashlib.sha256(content).hexdigest()}.json"

    def _kept(self, identity: dict[str, str]) -> MadeReference | None:
        path = self._path(identity)
        if path is None or not path.exists():
            return None
        try:
            content = json.loads(path.read_bytes())
            found = MadeReference(
                np.array(content["probabilities"], dtype=np.float64),
                float(content["seconds"]),
                loss=float(content["loss"]),
                learning_rate=content["learning_rate"],
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None  # damaged: it is made again
        usable = found.probabilities.shape == (len(self.test), len(self.labels)) and math.isfinite(found.seconds)
        return found if usable else None

    def _keep(self, identity: dict[str, str], run: MadeReference) -> None:
        path = self._path(identity)
        if path is not None:
            content = {
                "identity": identity,
                "seconds": run.seconds,
                "loss": run.loss,
                "learning_rate": run.learning_rate,
                "probabilities": run.probabilities.tolist(),
            }
            write_file(path, [json.dumps(content).encode()], staging=path.parent)
