"""The rows of several tasks: checked, cleaned and split together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from graftwork.data.check import check_dataset
from graftwork.data.clean import clean_dataset
from graftwork.data.dataset import Dataset
from graftwork.data.findings import Finding
from graftwork.data.report import DataReport
from graftwork.data.similar import near_duplicate_groups
from graftwork.errors import DataRejected, Problem, SettingsInvalid
from graftwork.registry.manifest import TASK_NAME
from graftwork.registry.tasks import TaskColumns, qualified
from graftwork.training.config import TrainingConfig
from graftwork.training.rows import PreparedRows, split_rows

if TYPE_CHECKING:
    from graftwork.data.tokens import TextTokenizer


def check_names(names: list[str]) -> None:
    """Refuse names of tasks that cannot be told apart or written down.

    Raises:
        SettingsInvalid: with every mistake.
    """
    problems = [
        Problem(f"task {name!r}", "is no name: letters, digits, '_', '-' and '.' make one, at most 64 of them")
        for name in names
        if re.match(TASK_NAME, name) is None
    ]
    problems += [Problem(f"task {name!r}", "is named twice") for name in sorted(set(names)) if names.count(name) > 1]
    if len(names) < 2:
        problems.append(Problem("", f"{len(names)} task is given" if names else "no task is given"))
    if problems:
        raise SettingsInvalid(
            "these are not several tasks",
            problems=problems,
            remedy="Name two or more, each once; an adapter for a single task is trained without naming any.",
        )


def check_tasks(
    tasks: Mapping[str, Dataset],
    test: Mapping[str, Dataset] | None,
    *,
    tokenizer: TextTokenizer | None,
    max_length: int,
) -> DataReport:
    """Check the rows of each task by itself; what is found says whose it is.

    Raises:
        DataRejected: if the check of a task finds errors; all of every task are listed.
    """
    reports = {
        name: check_dataset(rows, tokenizer=tokenizer, max_length=max_length, test=None if test is None else test[name])
        for name, rows in tasks.items()
    }
    problems: list[Problem] = []
    for name, report in reports.items():
        try:
            report.raise_for_errors()
        except DataRejected as error:
            problems += [Problem(f"task {name}, {found.where}", found.what) for found in error.problems]
    if problems:
        raise DataRejected(
            "nothing sound can be trained on the rows of these tasks",
            problems=problems,
            remedy="Mend the rows and try again; nothing was trained.",
        )
    together = join_tasks(tasks)
    return DataReport(
        source=together.source,
        digest=together.digest,
        rows=len(together),
        usable=sum(report.usable for report in reports.values()),
        classes={
            qualified(name, label): count for name, report in reports.items() for label, count in report.classes.items()
        },
        findings=tuple(_of(name, found) for name, report in reports.items() for found in report.findings),
    )


def join_tasks(tasks: Mapping[str, Dataset]) -> Dataset:
    """One row for each label of each task, the label with its task's name before it."""
    return Dataset(
        tuple(text for rows in tasks.values() for text in rows.texts),
        tuple(qualified(name, label) for name, rows in tasks.items() for label in rows.labels),
        tuple(row for rows in tasks.values() for row in rows.rows),
        source=", ".join(f"{name}={rows.source}" for name, rows in tasks.items()),
    )


def prepare_tasks(
    tasks: Mapping[str, Dataset], test: Mapping[str, Dataset] | None, config: TrainingConfig
) -> PreparedRows:
    """Clean each task by itself and split all of them together.

    No text of a test or validation row is trained on for another task either; of held-out rows none that is nearly the
    same.

    Args:
        tasks: checked rows by the name of the task.
        test: rows to judge on, of each task; without them `config.test_share` is held out.
        config: shares and seed.

    Raises:
        DataRejected: if no test row of a task is left.
    """
    judged = None
    seen: set[str] = set()
    if test is not None:
        cleaned = {name: clean_dataset(rows) for name, rows in test.items()}
        empty = [Problem(f"task {name}", f"{test[name].source} has none") for name, rows in cleaned.items() if not rows]
        if empty:
            raise DataRejected(
                "tasks are left without a usable row to judge on",
                problems=empty,
                remedy="Give test rows with a text and one label each, or none: then training rows are held out.",
            )
        judged = join_tasks(cleaned)
        seen = set(judged.texts)
    usable = {name: clean_dataset(rows) for name, rows in tasks.items()}
    rows = join_tasks(
        {name: each.select(i for i, text in enumerate(each.texts) if text not in seen) for name, each in usable.items()}
    )
    return split_rows(rows, near_duplicate_groups(rows.texts), judged, config)


def columns_in(label_names: tuple[str, ...]) -> tuple[TaskColumns, ...]:
    """The columns of each task, from the labels of all as `join_tasks` wrote them, sorted."""
    found: dict[str, list[str]] = {}
    for name in label_names:
        task, _, label = name.partition("/")
        found.setdefault(task, []).append(label)
    columns, start = [], 0
    for task, labels in found.items():
        columns.append(TaskColumns(task, tuple(labels), start))
        start += len(labels)
    return tuple(columns)


def _of(task: str, finding: Finding) -> Finding:
    return finding.model_copy(update={"message": f"task {task}: {finding.message}"})
