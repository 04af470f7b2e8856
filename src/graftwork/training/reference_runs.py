"""Training that an adapter is measured by, without what a run to be published needs beside it.

The rows were checked when the adapter was trained, the frozen base reads them once for all of these runs, and what is
trained from scratch is asked where it stands: no file is made of it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from graftwork.adaptation.inference import features_on_top, head_logits, probabilities
from graftwork.backbones.scratch import scratch_backbone
from graftwork.data.classchecks import check_classes
from graftwork.data.similar import near_duplicate_groups
from graftwork.errors import DataRejected
from graftwork.evaluation.metrics import log_losses
from graftwork.training.candidates import choose
from graftwork.training.judging import record_of
from graftwork.training.loop import fine_tune
from graftwork.training.package import package
from graftwork.training.preparation import probe_rows
from graftwork.training.progress import Progress, Silent
from graftwork.training.randomness import own_randomness
from graftwork.training.rows import PreparedRows, split_rows
from graftwork.training.runs import Run
from graftwork.training.task import Task

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone
    from graftwork.data.dataset import Dataset
    from graftwork.registry.artifact import Artifact
    from graftwork.training.config import TrainingConfig

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class KnownRows:
    """Rows of an adapter, and what the frozen base says of them, which is asked once.

    Attributes:
        backbone: the frozen backbone.
        rows: clean rows it was trained and validated on.
        test: rows to judge on; none of their texts is among `rows`.
        max_length: tokens kept of a text.
        progress: told of what is read.
    """

    backbone: Backbone
    rows: Dataset
    test: Dataset
    max_length: int
    progress: Progress = field(default_factory=Silent)

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """Of `rows`, `[rows, width]`."""
        return self._read(self.rows)

    @cached_property
    def test_vectors(self) -> NDArray[np.float32]:
        """Of `test`, `[test, width]`."""
        return self._read(self.test)

    @cached_property
    def encoded(self) -> Sequence[Sequence[int]]:
        """Every row of `rows`, then of `test`, as the backbone reads it."""
        return self.backbone.encode([*self.rows.texts, *self.test.texts], self.max_length)

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        """Near-duplicates among `rows` share an id."""
        return near_duplicate_groups(self.rows.texts)

    def prepared(self, places: NDArray[np.int64], config: TrainingConfig) -> PreparedRows:
        """Some of the rows, split as a run with these settings splits them."""
        return split_rows(self.rows.select(places), self.groups[places], self.test, config)

    def answers(self, artifact: Artifact, *, of_rows: bool = False) -> Floats:
        """An adapter's probabilities `[rows, classes]` of the test rows, or of those it was trained on."""
        part = self.rows if of_rows else self.test
        if artifact.manifest.tensors:
            self.progress.stage("asking the adapter", len(part))
            features = features_on_top(self.backbone, artifact, part.texts, progress=self.progress.advance)
        else:
            features = torch.from_numpy(self.vectors if of_rows else self.test_vectors)
        return probabilities(head_logits(artifact, features), artifact.manifest.temperature)

    def _read(self, part: Dataset) -> NDArray[np.float32]:
        self.progress.stage("reading rows through the backbone", len(part))
        found = self.backbone.embed(part.texts, max_length=self.max_length, progress=self.progress.advance)
        return np.asarray(found.numpy(), dtype=np.float32)


@dataclass(frozen=True)
class Made:
    """What came of it.

    Attributes:
        labels: in the order of the columns.
        probabilities: of the test rows `[test, labels]`.
        seconds: of splitting the rows, and of training; without reading test rows and those that the base knows.
        loss: mean log loss on the validation rows; 0 where nobody chooses by it.
    """

    labels: tuple[str, ...]
    probabilities: Floats
    seconds: float
    loss: float = 0.0


def trained_from_base(known: KnownRows, places: NDArray[np.int64], config: TrainingConfig) -> Made | None:
    """Train a strategy on the frozen base, as a run does.

    Args:
        known: the rows.
        places: which of them to train and validate on.
        config: the settings.

    Returns:
        What it says of the test rows; None when the rows are too few.
    """
    if _too_few(known.rows.select(places)):
        return None
    vectors = known.vectors[places]
    began = time.perf_counter()
    prepared = known.prepared(places, config)
    task = Task(known.backbone, prepared, vectors, probe_rows(vectors, prepared, config), config, known.max_length)
    try:
        candidate = choose(task, progress=known.progress, run=Run())
    except DataRejected:
        return None
    artifact = package(
        known.backbone,
        candidate,
        labels=prepared.label_names,
        dataset=record_of(prepared.rows, prepared, candidate),
        warnings=(),
        max_length=known.max_length,
        config=config,
    )
    seconds = time.perf_counter() - began
    return Made(prepared.label_names, known.answers(artifact), seconds)


def trained_from_scratch(
    known: KnownRows, places: NDArray[np.int64], config: TrainingConfig, *, learning_rate: float
) -> Made | None:
    """Train every parameter of the same architecture from random weights; the head begins with each class's share.

    Args:
        known: the rows.
        places: which of them to train and validate on.
        config: the settings; their strategy is `full`.
        learning_rate: highest rate.

    Returns:
        What it says of the test rows; None when the rows are too few.
    """
    if _too_few(known.rows.select(places)):
        return None
    began = time.perf_counter()
    prepared = known.prepared(places, config)
    if not len(prepared.validation):
        return None
    with own_randomness(config.seed, known.backbone.device):
        learning = [known.encoded[place] for place in places[prepared.train]]
        backbone = scratch_backbone(known.backbone, known.encoded, learning=learning)
    # A head that is fitted on nothing has the share of each class.
    nothing = np.zeros((len(places), backbone.width), dtype=np.float32)
    probe = probe_rows(nothing, prepared, config)
    task = Task(backbone, prepared, nothing, probe, config, known.max_length)
    with task.start(config.strategy) as start:
        tuned = fine_tune(start, learning_rate=learning_rate, progress=known.progress, run=Run())
        backbone.weights_changed()  # to those of the best evaluation
        seconds = time.perf_counter() - began
        known.progress.stage("asking it about the test rows", len(known.test))
        vectors = backbone.embed(known.test.texts, max_length=known.max_length, progress=known.progress.advance)
    logits = vectors.double() @ tuned.weight.double().T + tuned.bias.double()
    validated = tuned.validation_logits.double().numpy()
    temperature = task.temperature(validated)
    truth = prepared.labels[prepared.validation]
    loss = float(log_losses(probabilities(validated, temperature), truth).mean())
    return Made(prepared.label_names, probabilities(logits.numpy(), temperature), seconds, loss)


def _too_few(rows: Dataset) -> bool:
    """Whether the check before a training would refuse them."""
    return any(found.severity == "error" for found in check_classes(rows, rows))
