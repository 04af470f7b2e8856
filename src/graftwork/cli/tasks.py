"""What verbs do for adapters of several tasks: reading `--task`, and showing each task's quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftwork.errors import ColumnsMissing, DataRejected, Problem, SettingsInvalid

if TYPE_CHECKING:
    from graftwork.data.dataset import Dataset
    from graftwork.registry.manifest import Manifest
    from graftwork.training.config import TrainingConfig

_BOTH_WAYS = (
    "Write --task NAME=FILE --task NAME=FILE without FILE, or FILE --task NAME --task NAME=COLUMN for label columns."
)


def named_tasks(
    given: Sequence[str] | None, file: Path | None, *, compare_single: bool, refused: Mapping[str, Any]
) -> dict[str, str]:
    """Of each task its file, or its column in `file`; none when no task is named.

    Args:
        given: what `--task` said.
        file: the rows' file, in which tasks are columns.
        compare_single: whether tasks shall be compared with runs of their own.
        refused: options that tasks do not go with, and what they were given.

    Raises:
        SettingsInvalid: with every mistake.
    """
    if not given:
        problems = [] if file is not None else [Problem("FILE", "is missing")]
        problems += [Problem("--compare-single", "goes with --task")] if compare_single else []
        if problems:
            raise SettingsInvalid("there is nothing to train on like this", problems=problems, remedy=_BOTH_WAYS)
        return {}
    problems = [
        Problem(option, "does not go with --task" + (" and a file for each" if option == "--test" else ""))
        for option, value in refused.items()
        if value
    ]
    named: dict[str, str] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if file is None and not (equals and value):
            problems.append(Problem(f"--task {one}", "names no file"))
        if name in named:
            problems.append(Problem(f"--task {one}", f"names the task {name!r} again"))
        named[name] = value or name
    columns: dict[str, str] = {}
    for name, column in named.items():
        if column in columns:
            problems.append(Problem(f"--task {name}", f"takes the same {column!r} as {columns[column]!r}"))
        columns[column] = name
    if len(named) < 2:
        problems.append(Problem(f"--task {given[0]}", "is the only task; one task is trained without --task"))
    if problems:
        raise SettingsInvalid("these tasks cannot be trained together", problems=problems, remedy=_BOTH_WAYS)
    return named


def read_tasks(
    named: Mapping[str, str], file: Path | None, *, text: str, encoding: str | None, delimiter: str | None
) -> dict[str, Dataset]:
    """The labelled rows of each task; of a file with a label column for each, those that have a label there.

    Args:
        named: from `named_tasks`.
        file: the file of all tasks; None when each has its own.
        text: column of the texts.
        encoding: of the files.
        delimiter: of the files.

    Raises:
        ColumnsMissing: with every column that is not there.
        DataRejected: with every task that has no row, and every row that has no label at all.
        DataUnreadable: if a file cannot be read.
    """
    from graftwork.data.read import read_dataset

    missing: list[Problem] = []
    found: dict[str, Dataset] = {}
    remedy = ""
    for name, place in named.items():
        source, label = (place, "label") if file is None else (file, place)
        try:
            found[name] = read_dataset(source, text=text, label=label, encoding=encoding, delimiter=delimiter)
        except ColumnsMissing as error:
            missing += [Problem(f"task {name}, {problem.where}", problem.what) for problem in error.problems]
            remedy = f"{error.message}. {error.remedy}"
    if missing:
        raise ColumnsMissing("columns of tasks are missing", problems=missing, remedy=remedy)
    return found if file is None else _labelled(found, named, file)


def _labelled(found: Mapping[str, Dataset], named: Mapping[str, str], file: Path) -> dict[str, Dataset]:
    kept = {
        name: rows.select(index for index, label in enumerate(rows.labels) if label.strip())
        for name, rows in found.items()
    }
    problems = [
        Problem(f"task {name}", f"no row of {file} has a label in the column {named[name]!r}")
        for name, rows in kept.items()
        if not len(rows)
    ]
    labelled = {row for rows in kept.values() for row in rows.rows}
    bare = [row for rows in found.values() for row in rows.rows if row not in labelled]
    without = sorted(set(bare))
    problems += [Problem(f"{file}, row {row}", "has no label of any task") for row in without[:20]]
    if len(without) > 20:
        problems.append(Problem(str(file), f"and {len(without) - 20:,} more rows without any label"))
    if problems:
        raise DataRejected(
            f"{file}: some rows or tasks have no label",
            problems=problems,
            remedy="Label them, or take them out; a row needs a label of one task at least.",
        )
    return kept


def joined(tasks: Mapping[str, Dataset]) -> Dataset:
    """The rows of all tasks."""
    from graftwork.training.task_rows import join_tasks

    return join_tasks(tasks)


def with_compare_single(config: TrainingConfig) -> TrainingConfig:
    """The settings with the comparison asked for."""
    return config.model_copy(update={"tasks": config.tasks.model_copy(update={"compare_single": True})})


def print_tasks(manifest: Manifest) -> None:
    """The quality of each task, and how it does against a run of its own."""
    from graftwork.cli.console import print_evaluation_table, say
    from graftwork.evaluation.results import Evaluation
    from graftwork.evaluation.tables import quality_table

    for task in manifest.tasks:
        if task.metrics is not None:
            print_evaluation_table(quality_table(Evaluation.model_validate(task.metrics), name=task.name))
        if task.alone is not None:
            say(f"{task.alone['verdict']}.")
