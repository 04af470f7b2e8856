"""Adapters that answer several tasks: which rows of the packed head are whose.

The head of such an adapter is one matrix, the tasks' heads one below the other, so that one product answers them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graftwork.errors import Problem, RequestInvalid
from graftwork.registry.near import did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from graftwork.registry.manifest import Manifest

FORMAT = 2
"""The manifest's format that knows several tasks."""


@dataclass(frozen=True, slots=True)
class TaskColumns:
    """Where a task's logits are among all.

    Attributes:
        name: of the task.
        labels: its labels in the order of its columns.
        start: its first column.
    """

    name: str
    labels: tuple[str, ...]
    start: int

    @property
    def columns(self) -> slice:
        """Its columns."""
        return slice(self.start, self.start + len(self.labels))


def qualified(task: str, label: str) -> str:
    """A label that says whose it is, as manifests list it: `topic/sport`."""
    return f"{task}/{label}"


def columns_of(manifest: Manifest) -> tuple[TaskColumns, ...]:
    """The columns of each task; none for an adapter of one unnamed task."""
    found: list[TaskColumns] = []
    start = 0
    for task in manifest.tasks:
        found.append(TaskColumns(task.name, task.labels, start))
        start += len(task.labels)
    return tuple(found)


def temperatures_of(manifest: Manifest) -> NDArray[np.float64]:
    """What each row's logit is divided by, float64 `[classes]`."""
    import numpy as np

    if not manifest.tasks:
        return np.full(len(manifest.labels), manifest.temperature)
    return np.repeat([task.temperature for task in manifest.tasks], [len(task.labels) for task in manifest.tasks])


def task_of(tasks: Sequence[TaskColumns], wanted: str | None, model: str) -> TaskColumns | None:
    """The task that was asked for; None when none was.

    Args:
        tasks: of the adapter; none when it answers one unnamed task.
        wanted: its name.
        model: the adapter, for messages.

    Raises:
        RequestInvalid: if the adapter has no such task; it names the nearest.
    """
    if wanted is None:
        return None
    found = next((task for task in tasks if task.name == wanted), None)
    if found is None and not tasks:
        raise RequestInvalid(f"{model} has no tasks to choose from", remedy="Ask it without a task.")
    if found is None:
        names = [task.name for task in tasks]
        raise RequestInvalid(
            f"{model} has no task {wanted!r}", remedy=did_you_mean(wanted, names, f"Its tasks are {', '.join(names)}.")
        )
    return found


def one_task_of(tasks: Sequence[TaskColumns], wanted: str | None, model: str, how: str) -> TaskColumns | None:
    """The same where there is room for the answer of one task alone; None only for an adapter without named tasks.

    Args:
        tasks: of the adapter.
        wanted: the name asked for.
        model: the adapter, for messages.
        how: how to say which, for the remedy.

    Raises:
        RequestInvalid: if the adapter has several tasks and none was said, or not one of them.
    """
    if tasks and wanted is None:
        names = ", ".join(task.name for task in tasks)
        raise RequestInvalid(f"{model} answers several tasks ({names}), and one has to be said", remedy=how)
    return task_of(tasks, wanted, model)


def check_tasks(manifest: Manifest) -> list[Problem]:
    """What is wrong with the tasks of a manifest."""
    tasks, where = manifest.tasks, "manifest.json"
    if not tasks:
        return [Problem(where, "has the format of several tasks, and none")] if manifest.format == FORMAT else []
    problems = []
    names = [task.name for task in tasks]
    problems += [Problem(where, f"task {name!r} occurs twice") for name in sorted(set(names)) if names.count(name) > 1]
    if len(tasks) < 2:
        problems.append(Problem(where, "names a single task; an adapter of one task names none"))
    if manifest.format < FORMAT:
        problems.append(Problem(where, f"names tasks, which only the format {FORMAT} has"))
    if manifest.hidden:
        problems.append(Problem(where, "has several tasks and a hidden layer in its head"))
    if manifest.labels != tuple(qualified(task.name, label) for task in tasks for label in task.labels):
        problems.append(Problem(where, "lists other labels than those of its tasks"))
    return problems
