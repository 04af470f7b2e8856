"""Which epoch should be kept? `python -m benchmarks.kept_epoch [--what pictures tasks texts] [--seeds 0 1 2 3 4]`.

A run is trained to its last epoch, and the logits of its validation rows are kept at each evaluation. They are of more
rows than a run would hold back: of these as many as it would are drawn, on which a rule decides where to stop and what
to keep, and what it keeps is judged on the others, calibrated on the drawn ones. So every rule sees the same trainings,
and no rule is judged on rows it saw. All rows are of the training files.

Courses are kept as they end, and courses that are there are not made again.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.kept import CACHE, Kept, drawn, open_backbone
from benchmarks.machine import describe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from graftwork.backbones.backbone import Backbone
    from graftwork.data.dataset import Dataset
    from graftwork.training.config import TrainingConfig
    from graftwork.training.task import Task

DRAWS = 40
SHARE = 0.2  # of the rows of a run that are validation rows
EXTRA = 1.8  # times the rows of a run, to judge on
ALL = "topic+mood+spam"
TASK_ROWS = {"topic": 200, "mood": 300, "spam": 120}  # as benchmarks.tasks has them
FILES = {
    "topic": "bbc",
    "mood": "sentiment/tweets",
    "spam": "spam",
    "tweets": "sentiment/tweets",
    "films": "sentiment/movies",
    "headlines": "bbc",
}
AUTO = ("fine_tuning.epochs=1", "fine_tuning.batch_size=16", "fine_tuning.learning_rate=2e-3")
WAYS: dict[str, tuple[str, Sequence[str]]] = {
    "LoRA, 4 epochs": ("lora", ["fine_tuning.epochs=4"]),
    "LoRA, one epoch as auto": ("lora", AUTO),
    "partial, 4 epochs": ("partial", ["fine_tuning.epochs=4"]),
    "partial, rate 1e-4, 4 epochs": ("partial", ["partial.freeze_layers=10", "fine_tuning.epochs=4"]),
    "partial, rate 1e-3, 8 epochs": (
        "partial",
        ["partial.freeze_layers=10", "fine_tuning.epochs=8", "fine_tuning.learning_rate=1e-3"],
    ),
}
COURSES = {
    "pictures": [("emoji", "partial, rate 1e-4, 4 epochs"), ("emoji", "partial, rate 1e-3, 8 epochs")],
    "tasks": [(name, "LoRA, 4 epochs") for name in (ALL, *TASK_ROWS)],
    "texts": [(name, way) for name in ("tweets", "films", "headlines") for way in list(WAYS)[:3]],
}
RULES = {
    "loss": 1,
    "calibrated loss": 1,
    "accuracy": 1,
    "loss, patience 2": 2,
    "calibrated loss, patience 2": 2,
    "calibrated loss, no stop": 1000,
    "the last epoch": 1000,
}


@dataclass(frozen=True)
class Course:
    """One run to its last epoch.

    Attributes:
        data: the set, or the sets of an adapter of several tasks.
        way: how it was trained.
        seed: of the rows and of every random choice.
        tasks: the columns of each task, the first and one past the last.
        rows: how many validation rows of each task a run would hold back.
        labels: class indices of all validation rows `[rows]`.
        logits: of these at each evaluation, the start's first `[evaluations, rows, classes]`.
    """

    data: str
    way: str
    seed: int
    tasks: list[list[int]]
    rows: list[int]
    labels: list[int]
    logits: list[list[list[float]]]


@dataclass(frozen=True)
class Outcome:
    """What a rule comes to, mean over draws; accuracy and loss of each task.

    Attributes:
        accuracy: on rows it did not see.
        loss: their log loss after calibration.
        epochs: that were run.
        start: share of the draws in which the start was kept.
    """

    accuracy: NDArray[np.float64]
    loss: NDArray[np.float64]
    epochs: float
    start: float


def train(backbone: Backbone, data: str, way: str, seed: int) -> Course:
    """Train to the last epoch and keep the logits of each evaluation."""
    from graftwork.training.config import TrainingConfig
    from graftwork.training.loop import fine_tune
    from graftwork.training.progress import Silent
    from graftwork.training.runs import Run

    strategy, assignments = WAYS[way]
    config = TrainingConfig.parse(
        strategy=strategy,
        seed=seed,
        max_length=None if data == "emoji" else 32 if data in (ALL, *TASK_ROWS) else 40,
        test_share=0.0,
        validation_share=round(1 - (1 - SHARE) / (1 + EXTRA), 4),
        assignments=[*assignments, "fine_tuning.patience=1000"],
    )
    task = _task_of(backbone, data, config)
    kept: list[Any] = []
    with task.start(strategy) as start:
        objective = start.objective
        judge = objective.validation_loss

        def recorded(logits: Any, targets: Any) -> float:
            kept.append(logits.cpu().double().numpy())
            return judge(logits, targets)

        objective.validation_loss = recorded  # type: ignore[method-assign]
        rate = config.learning_rate_of(strategy)
        assert isinstance(rate, float)
        told = replace(start, own_objective=objective)
        fine_tune(told, learning_rate=rate, progress=Silent(), run=Run(), stage=strategy)
    columns = [[each.start, each.columns.stop] for each in task.tasks] or [[0, kept[0].shape[1]]]
    labels = task.prepared.labels[task.prepared.validation]
    counts = [int(((labels >= start) & (labels < stop)).sum()) for start, stop in columns]
    rows = [round(count * SHARE / (SHARE + EXTRA)) for count in counts]
    return Course(data, way, seed, columns, rows, labels.tolist(), np.round(np.stack(kept), 5).tolist())


def _task_of(backbone: Backbone, data: str, config: TrainingConfig) -> Task:
    """What a run is made from; the probe's penalty alone has seen rows that are judged on."""
    from graftwork.training.joint import JointTask, fit_probes, side_by_side
    from graftwork.training.preparation import probe_rows, read_features
    from graftwork.training.progress import Silent
    from graftwork.training.rows import prepare_rows
    from graftwork.training.task import Task
    from graftwork.training.task_rows import prepare_tasks

    length = min(config.max_length or backbone.max_length, backbone.max_length)
    if data == ALL or data in TASK_ROWS:
        rows = {name: _rows(name, config.seed) for name in TASK_ROWS}
        joint = prepare_tasks(rows, None, config)
        features = read_features(backbone, joint, length, Silent()).numpy()
        probes = fit_probes(features, joint, config, lambda: None)
        task = JointTask(backbone, joint, features, side_by_side(probes, joint), config, length, probes)
        return task if data == ALL else next(task.alone(each) for each in task.tasks if each.name == data)
    prepared = prepare_rows(_rows(data, config.seed), None, config)
    features = read_features(backbone, prepared, length, Silent()).numpy()
    return Task(backbone, prepared, features, probe_rows(features, prepared, config), config, length)


def _rows(data: str, seed: int) -> Dataset:
    from graftwork.data.dataset import Dataset
    from graftwork.data.read import read_dataset

    count = round(TASK_ROWS.get(data, 300 if data == "emoji" else 500) * (1 + EXTRA))
    if data == "emoji":
        return drawn(read_dataset(CACHE / "datasets" / "emoji" / "google" / "train"), count, seed)
    with (CACHE / "datasets" / FILES[data] / "train.csv").open(encoding="utf-8", newline="") as lines:
        rows = [(row["text"], row["label"]) for row in csv.DictReader(lines)]
    if FILES[data] == "bbc":
        rows = sorted({(text.split("\n", 1)[0], label) for text, label in rows})
    every = Dataset.from_lists([text for text, _ in rows], [label for _, label in rows], source=f"{data}.csv")
    return drawn(every, count, seed)


def judged(course: Course) -> dict[str, Outcome]:
    """What each rule comes to."""
    logits, labels = np.array(course.logits), np.array(course.labels)
    generator = np.random.default_rng(course.seed)
    found: dict[str, list[Outcome]] = {rule: [] for rule in RULES}
    for _ in range(DRAWS):
        shown = [_Shown(logits, labels, columns, count, generator) for columns, count in _tasks(course)]
        for rule, patience in RULES.items():
            # Of several tasks the mean decides.
            values = np.mean([getattr(task, _VALUES[rule.partition(",")[0]]) for task in shown], axis=0)
            kept, run = _kept(values, patience)
            kept = run if rule == "the last epoch" else kept
            accuracy, loss = (np.array([getattr(task, name)[kept] for task in shown]) for name in ("hits", "nats"))
            found[rule].append(Outcome(accuracy, loss, run, float(kept == 0)))
    return {
        rule: Outcome(
            *(np.mean([getattr(one, name) for one in all_of], axis=0) for name in ("accuracy", "loss")),
            *(float(np.mean([getattr(one, name) for one in all_of])) for name in ("epochs", "start")),
        )
        for rule, all_of in found.items()
    }


_VALUES = {
    "loss": "raw",
    "calibrated loss": "calibrated",
    "accuracy": "errors",
    "the last epoch": "raw",
}


class _Shown:
    """One task's rows, some of them drawn: what these say of each evaluation, and how good it is on the others."""

    def __init__(self, logits: Any, labels: Any, columns: list[int], count: int, generator: Any) -> None:
        from graftwork.adaptation.inference import probabilities
        from graftwork.evaluation.temperature import fit_temperature

        mine = np.flatnonzero((labels >= columns[0]) & (labels < columns[1]))
        order = generator.permutation(mine)
        seen, others = order[:count], order[count:]
        truth = labels - columns[0]
        self.raw, self.calibrated, self.errors, self.hits, self.nats = ([] for _ in range(5))
        for each in logits[:, :, columns[0] : columns[1]]:
            temperature = fit_temperature(each[seen], truth[seen])
            own = probabilities(each, temperature)
            self.raw.append(_nats(probabilities(each, 1.0)[seen], truth[seen]))
            self.calibrated.append(_nats(own[seen], truth[seen]))
            errors = float((own[seen].argmax(axis=1) != truth[seen]).mean())
            self.errors.append(errors + 1e-6 * self.calibrated[-1])
            self.hits.append(float((own[others].argmax(axis=1) == truth[others]).mean()))
            self.nats.append(_nats(own[others], truth[others]))


def _tasks(course: Course) -> Iterator[tuple[list[int], int]]:
    return zip(course.tasks, course.rows, strict=True)


def _nats(answers: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    return float(-np.log(np.maximum(answers[np.arange(len(truth)), truth], 1e-12)).mean())


def _kept(values: NDArray[np.float64], patience: int) -> tuple[int, int]:
    """The evaluation that is kept, and the last that is made."""
    best = 0
    for place in range(1, len(values)):
        if values[place] < values[best]:
            best = place
        if place - best >= patience:
            return best, place
    return best, len(values) - 1


def print_outcomes(courses: Sequence[Course]) -> None:
    """A line for each rule, by set and way; differences to the rule `loss` with 95 % intervals over courses."""
    outcomes = {(one.data, one.way, one.seed): judged(one) for one in courses}
    groups = dict.fromkeys((data, way) for data, way, _ in outcomes)
    print("| set | way | seeds | rule | accuracy | beside `loss` | log loss | beside `loss` | start kept | epochs |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for data, way in groups:
        _print_group(data, way, [found for key, found in outcomes.items() if key[:2] == (data, way)])
    alone = [found for key, found in outcomes.items() if key[0] != ALL and key[0] not in TASK_ROWS]
    if len(groups) > 1 and alone:
        _print_group("all but tasks", "", alone)
    _print_company(outcomes)


def _print_group(data: str, way: str, found: Sequence[dict[str, Outcome]]) -> None:
    for rule in RULES:
        told = []
        for name, shown in (("accuracy", "{:.1%}"), ("loss", "{:.3f}")):
            values = [float(getattr(one[rule], name).mean()) for one in found]
            beside = [
                value - float(getattr(one["loss"], name).mean()) for value, one in zip(values, found, strict=True)
            ]
            told += [shown.format(np.mean(values)), _interval(beside, 100 if name == "accuracy" else 1)]
        start, epochs = (np.mean([getattr(one[rule], name) for one in found]) for name in ("start", "epochs"))
        print(f"| {data} | {way} | {len(found)} | {rule} | {' | '.join(told)} | {start:.0%} | {epochs:.1f} |")


def _print_company(outcomes: dict[tuple[str, str, int], dict[str, Outcome]]) -> None:
    """Each task in company beside alone, by the same rule."""
    way = "LoRA, 4 epochs"
    seeds = [seed for data, _, seed in outcomes if data == ALL]
    seeds = [seed for seed in seeds if all((name, way, seed) in outcomes for name in TASK_ROWS)]
    if not seeds:
        return
    print(f"\n| rule | {' | '.join(f'{name}, together less alone' for name in sorted(TASK_ROWS))} | seeds |")
    print("| --- | --- | --- | --- | --- |")
    for rule in RULES:
        told = []
        for place, name in enumerate(sorted(TASK_ROWS)):
            pairs = [(outcomes[ALL, way, seed][rule], outcomes[name, way, seed][rule]) for seed in seeds]
            told.append(_interval([float(one.accuracy[place] - other.accuracy[0]) for one, other in pairs], 100))
        print(f"| {rule} | {' | '.join(told)} | {len(seeds)} |")


def _interval(values: Sequence[float], factor: float) -> str:
    """Mean with a 95 % bootstrap interval over courses."""
    scaled = factor * np.array(values)
    draws = scaled[np.random.default_rng(0).integers(len(scaled), size=(2000, len(scaled)))].mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    digits = 1 if factor > 1 else 3
    return f"{scaled.mean():+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


@cache
def _backbone(what: str) -> Backbone:
    if what == "pictures":
        return open_backbone(CACHE / "models" / "efficientnet-lite0", {"size": {"height": 112, "width": 112}})
    from benchmarks.domains import open_backbone as open_minilm

    return open_minilm(remember=False)


def main() -> None:
    """Train what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=COURSES, default=list(COURSES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--most", type=int, help="make at most so many courses; 0 only prints what is there")
    asked = parser.parse_args()
    courses, made = list[Course](), 0
    for what in asked.what:
        kept = Kept(f"kept-epoch-{what}", Course)
        done = {(one.data, one.way, one.seed): one for one in kept.outcomes()}
        for key in ((data, way, seed) for seed in asked.seeds for data, way in COURSES[what]):
            if key not in done and made != asked.most:
                done[key], made = train(_backbone(what), *key), made + 1
                kept.add(done[key])
                print(f"{key} is done", file=sys.stderr, flush=True)
            courses += [done[key]] if key in done else []
    print(f"{describe()}\npython -m benchmarks.kept_epoch {' '.join(sys.argv[1:])}\n")
    print_outcomes(courses)


if __name__ == "__main__":
    main()
