"""Several tasks as what one delta is adapted to: a head each, fitted by itself, and rows drawn from all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from graftwork.adaptation.feature_extraction import FeatureExtraction
from graftwork.adaptation.strategy import Delta
from graftwork.errors import DataRejected, SettingsInvalid
from graftwork.registry.tasks import TaskColumns
from graftwork.training.candidate import Candidate
from graftwork.training.candidates import dearest, whether_it_pays
from graftwork.training.objective import class_weights
from graftwork.training.probe import Probe, fit_head, fit_probe
from graftwork.training.sampling import TaskSampling
from graftwork.training.task import Task
from graftwork.training.task_logits import fit_temperatures, of_task, own_probabilities, owners
from graftwork.training.task_rows import columns_in
from graftwork.training.tuned import tuned_candidate

if TYPE_CHECKING:
    from graftwork.training.config import TrainingConfig
    from graftwork.training.progress import Progress
    from graftwork.training.rows import PreparedRows
    from graftwork.training.runs import Run


@dataclass(frozen=True)
class JointTask(Task):
    """Rows of several tasks, each label with its task's name before it.

    Attributes:
        probes: the probe of each task by its name; `probe` is all of them side by side.
    """

    probes: Mapping[str, Probe]

    @property
    def tasks(self) -> tuple[TaskColumns, ...]:
        """Which classes are whose."""
        return columns_in(self.prepared.label_names)

    def first_head(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """As `Task.first_head`, each task's rows of the head fitted on its own rows of the training part."""
        labels, train = self.prepared.labels, self.prepared.train
        fitted = []
        for task in self.tasks:
            mine = train[of_task(task, labels[train])]
            fitted.append(
                fit_head(
                    self.features[mine],
                    labels[mine] - task.start,
                    classes=len(task.labels),
                    penalty=self.probes[task.name].penalty,
                )
            )
        return np.concatenate([weight for weight, _ in fitted]), np.concatenate([bias for _, bias in fitted])

    def class_weights(self) -> NDArray[np.float32] | None:
        """As `Task.class_weights`; `balanced` within each task, which weighs as much as without."""
        wanted = self.config.fine_tuning.class_weights
        if wanted != "balanced":
            return super().class_weights()
        labels = self.prepared.labels[self.prepared.train]
        weights = [
            class_weights("balanced", labels[of_task(task, labels)] - task.start, task.labels) for task in self.tasks
        ]
        return np.concatenate([each for each in weights if each is not None])

    def sampling(self) -> TaskSampling:
        """How an epoch draws from the tasks."""
        owner = owners(self.tasks)[self.prepared.labels[self.prepared.train]]
        return TaskSampling(owner, self.config.tasks.temperature)

    def temperature(self, logits: NDArray[np.float64]) -> float:
        """One: each task has a temperature of its own (see `temperatures`)."""
        return 1.0

    def temperatures(self, candidate: Candidate) -> list[float]:
        """What calibrates each task: fitted on the validation rows, or of probes on the logits of all held-out rows."""
        labels = self.prepared.labels
        if candidate.strategy == FeatureExtraction.name:
            return fit_temperatures(self.probe.held_out_logits, labels, self.tasks)
        return fit_temperatures(candidate.validation_logits, labels[self.prepared.validation], self.tasks)

    def alone(self, task: TaskColumns) -> Task:
        """The same rows of one task by itself, on the same sides."""
        prepared = self.prepared
        mine = of_task(task, prepared.labels)
        tested = of_task(task, prepared.test_labels)
        place = np.full(len(prepared.labels), -1)
        place[mine] = np.arange(len(mine))

        def among(positions: NDArray[np.int64]) -> NDArray[np.int64]:
            kept = place[positions]
            return kept[kept >= 0]

        rows, test = prepared.rows.select(mine), prepared.test.select(tested)
        own = replace(
            prepared,
            rows=replace(rows, labels=tuple(label.partition("/")[2] for label in rows.labels)),
            labels=prepared.labels[mine] - task.start,
            groups=prepared.groups[mine],
            train=among(prepared.train),
            validation=among(prepared.validation),
            test=replace(test, labels=tuple(label.partition("/")[2] for label in test.labels)),
            test_labels=prepared.test_labels[tested] - task.start,
        )
        features, probe = self.features[mine], self.probes[task.name]
        return Task(self.backbone, own, features, probe, self.config, self.max_length)


def fit_probes(
    features: NDArray[np.floating],
    prepared: PreparedRows,
    config: TrainingConfig,
    between: Callable[[], None],
) -> dict[str, Probe]:
    """The probe of each task, fitted on its own rows.

    Args:
        features: pooled vectors `[rows, width]` of `prepared.rows`.
        prepared: the rows of all tasks.
        config: the settings.
        between: called before each.
    """
    probes = {}
    for task in columns_in(prepared.label_names):
        between()
        mine = of_task(task, prepared.labels)
        probes[task.name] = fit_probe(
            features[mine],
            prepared.labels[mine] - task.start,
            prepared.groups[mine],
            classes=len(task.labels),
            penalties=config.feature_extraction.penalties,
            folds=config.feature_extraction.folds,
            seed=config.seed,
        )
    return probes


def side_by_side(probes: Mapping[str, Probe], prepared: PreparedRows) -> Probe:
    """The probes of all tasks as one; held-out logits are nought outside of a row's own task."""
    tasks = columns_in(prepared.label_names)
    held_out = np.zeros((len(prepared.labels), len(prepared.label_names)))
    for task in tasks:
        held_out[of_task(task, prepared.labels), task.columns] = probes[task.name].held_out_logits
    return Probe(
        weight=np.concatenate([probes[task.name].weight for task in tasks]),
        bias=np.concatenate([probes[task.name].bias for task in tasks]),
        penalty=float(np.mean([probe.penalty for probe in probes.values()])),
        held_out_logits=held_out,
        held_out_loss=float(np.mean([probe.held_out_loss for probe in probes.values()])),
    )


def choose_joint(task: JointTask, *, progress: Progress, run: Run) -> Candidate:
    """What was asked for; with `auto`, a shared delta if it beats the probes beyond chance, all tasks' rows together.

    Args:
        task: what candidates are made from.
        progress: told of stages and steps.
        run: where checkpoints and measurements go.

    Raises:
        SettingsInvalid: if the head is to have a hidden layer.
        DataRejected: if no validation row of a task is left.
    """
    config, prepared = task.config, task.prepared
    if config.feature_extraction.head != "logistic" and config.strategy == FeatureExtraction.name:
        raise SettingsInvalid(
            "several tasks have linear heads",
            remedy="Leave feature_extraction.head out, or train each task by itself.",
        )
    if config.strategy == FeatureExtraction.name:
        return _probes(task, "")
    missing = [each.name for each in task.tasks if not len(of_task(each, prepared.labels[prepared.validation]))]
    if missing:
        raise DataRejected(
            f"no validation row is left of the task{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
            remedy="Label more rows, or take feature-extraction, which needs none.",
        )
    tuned = tuned_candidate(dearest(config), task, progress=progress, run=run)
    tuned = replace(tuned, decision=". ".join(filter(None, [tuned.decision, _own_bests(tuned)])))
    if config.strategy != "auto":
        return tuned
    plain = _probes(task, "")
    pays, told = _compare(tuned, plain, task)
    return replace(tuned, decision=f"{told}. {tuned.decision}".rstrip(". ")) if pays else replace(plain, decision=told)


def _probes(task: JointTask, decision: str) -> Candidate:
    return Candidate(
        strategy=FeatureExtraction.name,
        delta=Delta(task.backbone.num_layers, (), {}),
        weight=task.probe.weight,
        bias=task.probe.bias,
        temperature=1.0,
        validation_logits=task.probe.held_out_logits[task.prepared.validation],
        decision=decision,
    )


def _compare(tuned: Candidate, plain: Candidate, task: JointTask) -> tuple[bool, str]:
    """Whether a shared delta pays on the validation rows of all tasks, and the sentence that says why."""
    truth = task.prepared.labels[task.prepared.validation]
    ours, theirs = (
        own_probabilities(each.validation_logits, truth, task.tasks, task.temperatures(each)) for each in (tuned, plain)
    )
    on = "validation rows of all tasks"
    return whether_it_pays(tuned.strategy, ours, theirs, truth, on=on, than="the probes'")


def _own_bests(tuned: Candidate) -> str:
    """Where each task would have stopped by itself, against where the mean of all did."""
    judged = tuned.judged
    if len(judged) < 2:
        return ""
    kept = min(judged, key=lambda one: one.loss)
    told = []
    for name in kept.by_task:
        best = min(judged, key=lambda one: one.by_task[name])
        at = "there too" if best is kept else f"{best.by_task[name]:.3f} at step {best.step}"
        told.append(f"{name} {kept.by_task[name]:.3f} (its best {at})")
    return f"stopped by the mean of the tasks' validation losses, kept is step {kept.step}: {', '.join(told)}"
