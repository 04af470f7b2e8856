"""Going on with a published adapter, and the gate that a new version has to pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from graftwork.adaptation.inference import adapted_features, head_logits, probabilities
from graftwork.backbones.backbone import Backbone
from graftwork.data.dataset import Dataset
from graftwork.errors import DataRejected, NotBetter, SettingsInvalid, TrainingInterrupted
from graftwork.registry.artifact import Artifact
from graftwork.training.continuing import continue_training
from graftwork.training.interruption import Interruption
from graftwork.training.job import train
from graftwork.training.progress import Silent
from graftwork.training.runs import Run
from tests.backbones.conftest import open_backbone
from tests.training.test_job import LORA, PREFIX, PROBE, sentences
from tests.training.test_lineage import SMALL, SWAPPED, renamed


@pytest.fixture(scope="module")
def bert(saved: Callable[[str], Path]) -> Backbone:
    backbone: Backbone = open_backbone(saved("bert"))
    return backbone


OLD, NEW = sentences(0, 150), sentences(7, 60)


@pytest.fixture(scope="module")
def head_only(bert: Backbone) -> Artifact:
    return train(bert, OLD, config=PROBE).artifact


def loss(bert: Backbone, artifact: Artifact, rows: Dataset, ancestors: tuple[Artifact, ...] = ()) -> float:
    features = adapted_features(bert, artifact, rows.texts, ancestors=ancestors)
    answers = probabilities(head_logits(artifact, features), artifact.manifest.temperature)
    truth = [artifact.manifest.labels.index(label) for label in rows.labels]
    return float(-np.log(answers[np.arange(len(truth)), truth]).mean())


def test_new_rows_change_the_head_and_leave_what_it_stands_on(bert: Backbone, head_only: Artifact) -> None:
    rows, fresh = renamed(NEW, SWAPPED), renamed(sentences(8, 60), SWAPPED)
    trained = continue_training(bert, head_only, rows)
    manifest = trained.artifact.manifest
    assert (manifest.continues, manifest.parent, manifest.labels) == (head_only.digest, None, head_only.manifest.labels)
    assert loss(bert, trained.artifact, fresh) < loss(bert, head_only, fresh) - 0.1
    assert "no old rows were given to check on" in manifest.decision
    assert trained.evaluation is not None
    assert continue_training(bert, head_only, rows).artifact.digest == trained.artifact.digest


def test_rows_of_one_label_do_not_make_it_forget_the_others(bert: Backbone, head_only: Artifact) -> None:
    law = NEW.select([index for index, label in enumerate(NEW.labels) if label == "law"])
    artifact = continue_training(bert, head_only, law, replay=OLD).artifact
    others = sentences(9, 60)
    assert loss(bert, artifact, others) < loss(bert, head_only, others) + 0.1
    assert "old rows that were kept back" in artifact.manifest.decision
    # The very file it was trained on: what is kept back is what it was judged on, beside the new rows.
    kept = artifact.manifest.dataset.test_rows - head_only.manifest.dataset.test_rows
    assert 0 < kept < len(law) / 2


def test_what_unlearns_old_rows_is_not_published(bert: Backbone, head_only: Artifact) -> None:
    contrary = renamed(sentences(7, 150), SWAPPED)
    few_old = OLD.select(range(0, 150, 3))
    with pytest.raises(NotBetter, match="the version before answers better") as caught:
        continue_training(bert, head_only, contrary, replay=few_old)
    assert caught.value.exit_code == 2
    assert [problem.where for problem in caught.value.problems] == ["old rows"]
    assert "--replay" in (caught.value.remedy or "")


class StopsAt(Silent):
    """Asks for the end of a run after so many steps of fine-tuning."""

    def __init__(self, wish: Interruption, *, step: int) -> None:
        self._wish, self._left, self._tuning = wish, step, False

    def stage(self, name: str, total: int | None) -> None:
        self._tuning = name == "fine-tuning"

    def advance(self, steps: int = 1, **metrics: float) -> None:
        self._left -= steps if self._tuning else 0
        if self._left <= 1:
            self._wish.request()


def test_a_lora_child_goes_on_from_its_own_delta_on_the_same_parent(bert: Backbone, tmp_path: Path) -> None:
    parent = train(bert, OLD, config=LORA).artifact
    child = train(bert, renamed(sentences(2, 120), SWAPPED), config=SMALL, ancestors=(parent,)).artifact
    rows, fresh = sentences(12, 120), sentences(13, 60)
    again = continue_training(bert, child, rows, ancestors=(parent,)).artifact
    wish = Interruption()
    run = Run(tmp_path / "run", interruption=wish)
    with pytest.raises(TrainingInterrupted, match="after step 3"):
        continue_training(bert, child, rows, ancestors=(parent,), run=run, progress=StopsAt(wish, step=3))
    resumed = continue_training(bert, child, rows, ancestors=(parent,), run=Run(tmp_path / "run", resume=True))
    assert resumed.artifact.digest == again.digest
    with pytest.raises(SettingsInvalid, match="cannot be resumed") as caught:
        train(bert, rows, config=SMALL, ancestors=(parent,), run=Run(tmp_path / "run", resume=True))
    assert "continued from" in [problem.where for problem in caught.value.problems]
    manifest = again.manifest
    assert (manifest.parent, manifest.continues, manifest.split) == (parent.digest, child.digest, child.manifest.split)
    assert manifest.tensors == child.manifest.tensors
    assert loss(bert, again, fresh, (parent,)) < loss(bert, child, fresh, (parent,))


def test_rows_that_it_cannot_go_on_with_are_refused(bert: Backbone, head_only: Artifact) -> None:
    with pytest.raises(DataRejected) as caught:
        continue_training(bert, head_only, renamed(NEW, {"law": "justice"}), replay=renamed(OLD, {"animal": "beast"}))
    assert [problem.what for problem in caught.value.problems] == ["unknown label 'justice'", "unknown label 'beast'"]
    with pytest.raises(DataRejected, match="too few"):
        continue_training(bert, head_only, NEW.select(range(3)))
    with pytest.raises(SettingsInvalid, match="keeps its ranks"):
        continue_training(bert, head_only, NEW, config=LORA)
    prefix = Artifact(head_only.manifest.model_copy(update={"strategy": PREFIX.strategy}), head_only.files)
    with pytest.raises(SettingsInvalid, match="prefix-tuning cannot be continued"):
        continue_training(bert, prefix, NEW)


def test_a_base_in_few_bits_is_refused_or_told_of_as_in_training(
    saved: Callable[[str], Path], head_only: Artifact
) -> None:
    few = open_backbone(saved("bert"), bits="int8")
    with pytest.raises(SettingsInvalid, match="the backbone was loaded with int8"):
        continue_training(few, head_only, NEW)
    config = PROBE.model_copy(update={"base_dtype": "int8"})
    first = train(few, OLD, config=config).artifact
    again = continue_training(few, first, renamed(NEW, SWAPPED)).artifact
    assert "base-in-few-bits" in [warning.code for warning in again.manifest.warnings]
