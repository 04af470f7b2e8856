from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from graftwork.backbones.backbone import Backbone
from graftwork.data.dataset import Dataset
from graftwork.errors import SettingsInvalid, TrainingInterrupted
from graftwork.training.config import TrainingConfig
from graftwork.training.interruption import Interruption
from graftwork.training.job import Trained, train
from graftwork.training.metrics import Metrics
from graftwork.training.progress import Silent
from graftwork.training.runs import Run
from graftwork.training.split_costs import TrialCost, trial_costs
from graftwork.training.splits import splits_of
from graftwork.training.task import Task
from tests.backbones.conftest import open_backbone
from tests.cli.samples import draw_rows
from tests.training.test_job import sentences

Backbones = Callable[..., Backbone]
TOLD_APART = Dataset.from_lists([row[0] for row in draw_rows(50)], [row[1] for row in draw_rows(50)], source="rows.csv")
BY_CHANCE = sentences(0, 100)
# There are 8 steps. A step of the tiny model takes some million operations, its trunk for all rows some more.
COMMON = (
    "fine_tuning.epochs=2",
    "fine_tuning.batch_size=16",
    "feature_extraction.penalties=[30]",
    "partial.gflops=0.1",
)
AUTO = ("partial.freeze_layers=auto", "partial.budget=2")  # enough for TOLD_APART: two steps of each, then five
LEARNING = (*AUTO, "fine_tuning.learning_rate=3e-5")


class Kept:
    """Measurements in a list."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, int, dict[str, float]]] = []

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        self.lines.append((stage, step, dict(values)))

    def clear(self) -> None:
        self.lines.clear()

    def rewind(self, stage: str, step: int) -> None:
        self.lines = [line for line in self.lines if line[0] != stage or line[1] <= step]

    def close(self) -> None:
        pass

    def trials(self) -> list[tuple[int, int, float]]:
        """Frozen layers, steps and loss of each."""
        return [
            (int(values["frozen"]), int(values["steps"]), values["validation_loss"])
            for stage, _, values in self.lines
            if stage == "split"
        ]


class Watching(Silent):
    """Ends the run at a stage, as a kill would, and remembers which there were."""

    def __init__(self, end_at: int | None = None, wish: Interruption | None = None) -> None:
        self.tried: list[str] = []
        self.notes: list[str] = []
        self._end_at = end_at
        self._wish = wish

    def stage(self, name: str, total: int | None) -> None:
        if name.startswith("trying"):
            self.tried.append(name)
            if len(self.tried) == self._end_at:
                if self._wish is None:
                    raise MemoryError("killed")
                self._wish.request()

    def note(self, text: str) -> None:
        self.notes.append(text)


def tuned(backbone: Backbone, *assignments: str, **how: Any) -> tuple[Trained, Kept]:
    kept = Kept()
    run = Run(how.pop("folder", None), metrics=Metrics([kept]), **how.pop("run", {}))
    config = TrainingConfig.parse(strategy="partial", assignments=[*COMMON, *assignments])
    rows = how.pop("rows", TOLD_APART)
    return train(backbone, rows, config=config, run=run, **how), kept


@pytest.fixture(scope="module", autouse=True)
def _counted_once() -> Iterator[None]:
    """The counts of the same rows are the same, and take longer than a run of the tiny model."""
    known: dict[str, dict[int, TrialCost]] = {}

    def counted(task: Task, wanted: Sequence[int]) -> dict[int, TrialCost]:
        if task.prepared.rows.digest not in known:
            known[task.prepared.rows.digest] = trial_costs(task, wanted)
        return known[task.prepared.rows.digest]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("graftwork.training.splits.trial_costs", counted)
        yield


@pytest.fixture(scope="module")
def whole(saved: Callable[[str], Path]) -> Trained:
    """A run that nobody disturbed."""
    return tuned(open_backbone(saved("bert")), *LEARNING)[0]


@pytest.mark.parametrize(("layers", "splits"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (12, [0, 3, 6, 8, 11])])
def test_splits_are_spread_over_all_layers(layers: int, splits: list[int]) -> None:
    assert splits_of(layers) == splits


@pytest.mark.parametrize(
    ("rows", "rate", "budget", "best"),
    [(TOLD_APART, "3e-5", 2, 0), (BY_CHANCE, "1e-4", 5, 2)],
    ids=["to learn much pays", "to learn little pays"],
)
def test_every_trial_is_the_beginning_of_the_run_it_stands_for_and_the_least_loss_is_taken(
    backbone_of: Backbones, rows: Dataset, rate: str, budget: int, best: int
) -> None:
    backbone, watcher = backbone_of("bert"), Watching()
    auto = (AUTO[0], f"partial.budget={budget}", f"fine_tuning.learning_rate={rate}")
    found, kept = tuned(backbone, *auto, rows=rows, progress=watcher)
    trials = kept.trials()
    few, many = sorted({steps for _, steps, _ in trials})
    first = {frozen: loss for frozen, steps, loss in trials if steps == few}
    last = {frozen: loss for frozen, steps, loss in trials if steps == many}
    for frozen in (0, 1, 2):
        settings = (f"partial.freeze_layers={frozen}", "fine_tuning.evaluate_steps=1", "fine_tuning.patience=99")
        _, whole = tuned(backbone, *settings, f"fine_tuning.learning_rate={rate}", rows=rows)
        losses = {step: values["validation_loss"] for _, step, values in whole.lines if "validation_loss" in values}
        assert first[frozen] == losses[few]
        assert last.get(frozen, losses[many]) == losses[many]
    assert set(last) == set(sorted(first, key=lambda frozen: first[frozen])[:2])
    assert min(last, key=lambda frozen: last[frozen]) == best
    manifest = found.artifact.manifest
    assert manifest.settings["partial"]["freeze_layers"] == "auto"
    table = ", ".join(f"{frozen} frozen {loss:.4f}" for frozen, loss in last.items())
    assert f"after {many} steps {table}" in manifest.decision
    told = (
        f"partial fine-tuning, {best} of 3 layers frozen, the best by validation loss within {budget} s at 0.1 GFLOP/s"
    )
    assert manifest.decision.startswith(told)
    assert any(note.startswith(told.replace(",", ":", 1)) for note in watcher.notes)


@pytest.mark.parametrize("end_at", [2, 4])
def test_a_search_that_was_killed_goes_on_after_its_last_trial(
    backbone_of: Backbones, whole: Trained, tmp_path: Path, end_at: int
) -> None:
    backbone = backbone_of("bert")
    with pytest.raises(MemoryError):
        tuned(backbone, *LEARNING, folder=tmp_path / "run", progress=Watching(end_at))
    watcher = Watching()
    resumed, kept = tuned(backbone, *LEARNING, folder=tmp_path / "run", run={"resume": True}, progress=watcher)
    assert resumed.artifact.digest == whole.artifact.digest
    assert len(watcher.tried) == len(kept.trials()) == 5 - (end_at - 1)
    assert f"resumed after {end_at - 1} trials of splits" in watcher.notes


def test_the_split_that_was_found_is_the_one_that_is_published(whole: Trained) -> None:
    assert whole.artifact.manifest.split == 0
    assert whole.artifact.manifest.decision.startswith("partial fine-tuning, 0 of 3 layers frozen")


def test_a_search_stops_when_it_is_asked_to(backbone_of: Backbones, tmp_path: Path) -> None:
    wish = Interruption()
    with pytest.raises(TrainingInterrupted, match="while splits were tried") as caught:
        tuned(backbone_of("bert"), *AUTO, folder=tmp_path, run={"interruption": wish}, progress=Watching(2, wish))
    assert "--resume" in caught.value.remedy


def test_a_budget_that_pays_for_no_step_of_each_is_refused_with_one_that_does(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    with pytest.raises(SettingsInvalid, match="does not pay for one step of each of the 3 splits") as caught:
        tuned(backbone, "partial.freeze_layers=auto", "partial.budget=0.001")
    needed = re.search(r"partial\.budget=([\d.]+)", caught.value.remedy)
    assert needed is not None
    _, kept = tuned(backbone, "partial.freeze_layers=auto", f"partial.budget={needed[1]}")
    assert kept.trials()[0][1] == 1


def test_a_run_that_diverges_is_no_good_split(backbone_of: Backbones, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([float("inf"), 0.7, 0.7, 0.9, 0.8])
    monkeypatch.setattr("graftwork.training.splits.trial_loss", lambda *_, **__: next(losses))
    found, kept = tuned(backbone_of("bert"), *AUTO)
    assert found.artifact.manifest.decision.startswith("partial fine-tuning, 1 of 3 layers frozen")
    assert "0 frozen inf, 1 frozen 0.7000, 2 frozen 0.7000" in found.artifact.manifest.decision
    assert next(set(values) for stage, _, values in kept.lines if stage == "split") == {"frozen", "steps"}
