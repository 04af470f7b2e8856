"""Several tasks trained together: what is drawn, what is minimised, what is split, and that it can be resumed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from graftwork.adaptation.inference import adapted_features, head_logits
from graftwork.backbones.backbone import Backbone
from graftwork.data.dataset import Dataset
from graftwork.data.similar import near_duplicate_groups
from graftwork.errors import DataRejected, SettingsInvalid, TrainingInterrupted
from graftwork.evaluation.results import Evaluation
from graftwork.registry.artifact import Artifact
from graftwork.registry.tasks import TaskColumns, columns_of
from graftwork.training.activations import Activations
from graftwork.training.config import TrainingConfig
from graftwork.training.interference import against_alone, interference_warning
from graftwork.training.interruption import Interruption
from graftwork.training.progress import Silent
from graftwork.training.runs import Run
from graftwork.training.sampling import TaskSampling, shares
from graftwork.training.task_logits import TasksBaseline
from graftwork.training.task_rows import prepare_tasks
from graftwork.training.tasks import train_tasks
from graftwork.training.tasks_objective import TasksObjective
from tests.cli.samples import draw_rows

TASKS = (TaskColumns("first", ("a", "b", "c"), 0), TaskColumns("second", ("x", "y"), 3))
CPU = torch.device("cpu")
LORA = TrainingConfig.parse(
    strategy="lora",
    assignments=[
        *("fine_tuning.epochs=2", "fine_tuning.batch_size=16", "fine_tuning.learning_rate=1e-3", "lora.rank=2"),
        *("fine_tuning.checkpoint_steps=1", "fine_tuning.class_weights=balanced"),
    ],
)


@pytest.fixture
def bert(backbone_of: Callable[..., Backbone]) -> Backbone:
    return backbone_of("bert")


def tasks() -> dict[str, Dataset]:
    """Two tasks of unequal size that share half of their texts."""
    rows = draw_rows(40)
    long = [(text, "long" if text.count(" ") > 3 else "short") for text, _ in (*rows[20:60], *draw_rows(10, seed=5))]
    return {
        name: Dataset.from_lists([text for text, _ in pairs], [label for _, label in pairs], source=f"{name}.csv")
        for name, pairs in (("topic", rows), ("length", long))
    }


@given(st.lists(st.integers(2, 60), min_size=2, max_size=4), st.sampled_from([1.0, 2.0, 5.0]), st.integers(1, 4))
@settings(max_examples=40)
def test_an_epoch_draws_each_task_in_its_share_and_no_row_oftener_than_its_neighbours(
    counts: list[int], temperature: float, epochs: int
) -> None:
    owner = np.repeat(np.arange(len(counts)), counts)
    sampling = TaskSampling(owner, temperature)
    quotas, wanted = sampling.quotas(), shares(np.array(counts), temperature) * sum(counts)
    assert quotas.sum() == sum(counts)
    assert np.all(np.abs(quotas - wanted) <= 1)
    drawn = [sampling.draw(seed=7, epoch=epoch) for epoch in range(1, epochs + 1)]
    for epoch in drawn:
        np.testing.assert_array_equal(np.bincount(owner[epoch], minlength=len(counts)), quotas)
    times = np.bincount(np.concatenate(drawn), minlength=len(owner))
    assert all(np.ptp(times[owner == task]) <= 1 for task in range(len(counts)))
    np.testing.assert_array_equal(sampling.draw(seed=7, epoch=epochs), drawn[-1])


def test_shares_are_those_of_the_papers() -> None:
    np.testing.assert_allclose(shares(np.array([100, 900]), 1.0), [0.1, 0.9])
    np.testing.assert_allclose(shares(np.array([100, 900]), 2.0), [0.25, 0.75])
    np.testing.assert_allclose(shares(np.array([100, 900]), 1000.0), [0.5, 0.5], atol=1e-3)


def test_each_row_is_judged_among_the_labels_of_its_own_task() -> None:
    logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 3, 2, 4, 1, 3, 0])
    weights = np.array([1.0, 2.0, 0.5, 1.5, 0.25], dtype=np.float32)
    objective = TasksObjective(TASKS, weights, 0.1, CPU)
    rows = []
    for row, target in zip(logits, targets, strict=True):
        task = TASKS[int(target >= 3)]
        own, place = row[task.columns][None], target[None] - task.start
        weighed = torch.from_numpy(weights[task.columns])
        rows.append(cross_entropy(own, place, weight=weighed, label_smoothing=0.1, reduction="sum"))
    torch.testing.assert_close(objective.total(logits, targets), torch.stack(rows).sum())
    parts = objective.total(logits[:3], targets[:3]) + objective.total(logits[3:], targets[3:])
    torch.testing.assert_close(parts, torch.stack(rows).sum())
    by_task = {
        "first": cross_entropy(
            logits[[0, 2, 4, 6], :3], targets[[0, 2, 4, 6]], weight=torch.from_numpy(weights[:3])
        ).item(),
        "second": cross_entropy(
            logits[[1, 3, 5], 3:], targets[[1, 3, 5]] - 3, weight=torch.from_numpy(weights[3:])
        ).item(),
    }
    assert objective.losses_by_task(logits, targets) == pytest.approx(by_task)
    assert objective.validation_loss(logits, targets) == pytest.approx(np.mean(list(by_task.values())))
    right = [
        (row[TASKS[int(t >= 3)].columns].argmax() + 3 * (t >= 3) == t).item()
        for row, t in zip(logits, targets, strict=True)
    ]
    accuracy = (np.mean([right[row] for row in (0, 2, 4, 6)]) + np.mean([right[row] for row in (1, 3, 5)])) / 2
    assert objective.accuracy(logits, targets) == pytest.approx(accuracy)


def test_what_stops_a_run_of_several_tasks_is_calibrated_by_task() -> None:
    random = np.random.default_rng(0)
    labels = np.concatenate([random.integers(0, 3, 60), random.integers(3, 5, 60)])
    logits = random.normal(size=(120, 5)).astype(np.float32)
    logits[np.arange(120), labels] += 1.5
    objective, targets = TasksObjective(TASKS, None, 0.0, CPU), torch.from_numpy(labels)
    before = objective.losses_by_task(torch.from_numpy(logits), targets)
    logits[:, 3:] *= 20  # the second task's answers are the same, and too sure
    assert objective.losses_by_task(torch.from_numpy(logits), targets) == pytest.approx(before, rel=1e-5)


def test_a_task_that_falls_is_seen_though_logits_of_others_are_huge() -> None:
    random = np.random.default_rng(0)
    labels = np.concatenate([random.integers(0, 3, 200), random.integers(3, 5, 200)])
    good = random.normal(size=(400, 5))
    good[np.arange(400), labels] += 3
    good[:200, 3:] += 1000  # of another task: says nothing of these rows
    baseline = TasksBaseline(TASKS, good, labels, weighted=False)
    assert not baseline.above(good)
    poor = good.copy()
    poor[200:, 3:] = random.normal(size=(200, 2))
    assert baseline.above(poor)


def test_no_text_is_trained_on_for_one_task_and_judged_on_for_another() -> None:
    prepared = prepare_tasks(tasks(), None, TrainingConfig())
    texts = [*prepared.rows.texts, *prepared.test.texts]
    side = np.zeros(len(texts), dtype=int)
    side[prepared.validation] = 1
    side[len(prepared.rows) :] = 2
    assert set(side) == {0, 1, 2}
    for group in np.unique(groups := near_duplicate_groups(texts)):
        assert len(set(side[groups == group])) == 1
    for name in ("topic/animal", "topic/legal", "length/long", "length/short"):
        assert name in prepared.test.labels


def test_a_text_of_several_tasks_is_kept_once(bert: Backbone) -> None:
    ids = bert.encode(["the quick brown fox", "wonderful weather", "the quick brown fox"], 16)
    once, twice = (Activations(bert, each, split=1) for each in (ids[:2], ids))
    assert twice.bytes_kept == once.bytes_kept
    assert twice.lengths.tolist() == [len(tokens) for tokens in ids]
    expected, _ = once.batch([0, 1, 0])
    torch.testing.assert_close(twice.batch([0, 1, 2])[0], expected)


class _Stopping(Silent):
    """Asks a run to stop after so many steps."""

    def __init__(self, wish: Interruption, after: int) -> None:
        self._wish, self._left, self._training = wish, after, False

    def stage(self, name: str, total: int | None) -> None:
        self._training = name == "fine-tuning"

    def advance(self, steps: int = 1, **metrics: float) -> None:
        self._left -= steps if self._training else 0
        if self._left <= 0:
            self._wish.request()


def test_a_run_is_judged_task_by_task_and_resumed_to_the_same_digest(bert: Backbone, tmp_path: Path) -> None:
    config = LORA.model_copy(update={"tasks": LORA.tasks.model_copy(update={"compare_single": True})})
    given = tasks()
    whole = train_tasks(bert, given, config=config)
    manifest = whole.artifact.manifest
    artifact = Artifact(manifest, whole.artifact.files)
    artifact.check()
    wish = Interruption()
    with pytest.raises(TrainingInterrupted):
        train_tasks(
            bert, given, config=config, run=Run(tmp_path / "run", interruption=wish), progress=_Stopping(wish, 3)
        )
    assert (tmp_path / "run" / "lora.safetensors").exists()
    resumed = train_tasks(bert, given, config=config, run=Run(tmp_path / "run", resume=True))
    assert resumed.artifact.digest == whole.artifact.digest
    test = prepare_tasks(given, None, config).test
    logits = head_logits(artifact, adapted_features(bert, artifact, test.texts))
    for task, record in zip(columns_of(manifest), manifest.tasks, strict=True):
        truth = [task.labels.index(label.partition("/")[2]) for label in test.labels if label.startswith(task.name)]
        mine = [row for row, label in enumerate(test.labels) if label.startswith(task.name)]
        right = logits[mine, task.columns].argmax(axis=1) == truth
        found = Evaluation.model_validate(record.metrics)
        assert found.accuracy.value == pytest.approx(right.mean(), abs=1e-6)
        assert record.alone is not None
        gap = record.alone["accuracy"]
        assert gap["only_a"] - gap["only_b"] == pytest.approx(gap["difference"]["value"] * len(mine), abs=1e-3)
    assert "stopped by the mean of the tasks' validation losses" in manifest.decision


def test_heads_on_a_frozen_base_are_those_of_tasks_alone(bert: Backbone) -> None:
    from graftwork.training.job import train

    given = {name: replace(rows, notes=()) for name, rows in tasks().items()}
    config = TrainingConfig(strategy="feature-extraction", test_share=0.0)
    together = train_tasks(bert, given, config=config).artifact
    features = bert.embed(["quick fox", "case granted appeal"])
    for task, record in zip(columns_of(together.manifest), together.manifest.tasks, strict=True):
        alone = train(bert, given[task.name], config=config).artifact
        np.testing.assert_allclose(
            head_logits(together, features)[:, task.columns], head_logits(alone, features), rtol=1e-4, atol=1e-4
        )
        assert record.labels == alone.manifest.labels
        assert record.metrics is None


def test_what_cannot_be_trained_together_is_refused_with_every_reason(bert: Backbone) -> None:
    one_class = Dataset.from_lists(["a fox", "a dog"], ["x", "x"], source="one.csv")
    with pytest.raises(DataRejected) as caught:
        train_tasks(bert, {"a": one_class, "b": one_class})
    assert {problem.where.split(",")[0] for problem in caught.value.problems} == {"task a", "task b"}
    with pytest.raises(SettingsInvalid, match="not several tasks"):
        train_tasks(bert, {"a": one_class})
    mlp = TrainingConfig.parse(strategy="feature-extraction", assignments=["feature_extraction.head=mlp"])
    with pytest.raises(SettingsInvalid, match="linear heads"):
        train_tasks(bert, tasks(), config=mlp)


def test_a_task_that_suffers_in_company_is_told_beyond_chance_only() -> None:
    truth = np.arange(100) % 2
    right, wrong = np.array([0.8, 0.2]), np.array([0.3, 0.7])
    alone = np.where((truth == 0)[:, None], right, right[::-1])
    poor = alone.copy()
    poor[:20] = np.where((truth[:20] == 0)[:, None], wrong, wrong[::-1])
    worse = against_alone("mood", poor, alone, truth, digest="d" * 64, seed=0)
    assert "mood suffers from the other tasks" in worse.verdict
    assert "accuracy -20.0% [" in worse.verdict
    assert (found := interference_warning("mood", worse)) is not None
    assert found.code == "negative-interference"
    same = against_alone("mood", alone, alone, truth, digest="d" * 64, seed=0)
    assert "as well in company as alone" in same.verdict
    assert interference_warning("mood", same) is None
    assert "gains from" in against_alone("mood", alone, poor, truth, digest="d" * 64, seed=0).verdict
