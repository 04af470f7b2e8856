"""`graft train --task`: which tasks are named, and the rows of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from graftwork.errors import ColumnsMissing, DataRejected, Problem, SettingsInvalid

if TYPE_CHECKING:
    from graftwork.cli.reading import Reader
    from graftwork.cli.training.request import TrainRequest
    from graftwork.data.dataset import Dataset

_BOTH_WAYS = (
    "Write --task NAME=FILE --task NAME=FILE without FILE, or FILE --task NAME --task NAME=COLUMN for label columns."
)


def named_tasks(asked: TrainRequest) -> dict[str, str]:
    """Of each task its file, or its column in FILE; none when no task is named."""
    named = {}
    for one in asked.task or ():
        name, _, value = one.partition("=")
        named[name] = value or name
    return named


def task_mistakes(asked: TrainRequest) -> Iterator[SettingsInvalid]:
    """What is wrong with the tasks that are named."""
    if not asked.task:
        if asked.compare_single:
            problems = [Problem("--compare-single", "goes with --task")]
            yield SettingsInvalid("there are no tasks to compare", problems=problems, remedy=_BOTH_WAYS)
        return
    problems = [*_ill_named(asked.task, asked.file), *_same_place(named_tasks(asked))]
    if len(named_tasks(asked)) < 2:
        problems.append(Problem(f"--task {asked.task[0]}", "is the only task; one task is trained without --task"))
    if problems:
        yield SettingsInvalid("these tasks cannot be trained together", problems=problems, remedy=_BOTH_WAYS)


def _ill_named(given: list[str], file: Path | None) -> Iterator[Problem]:
    before: set[str] = set()
    for one in given:
        name, equals, value = one.partition("=")
        if file is None and not (equals and value):
            yield Problem(f"--task {one}", "names no file")
        if name in before:
            yield Problem(f"--task {one}", f"names the task {name!r} again")
        before.add(name)


def _same_place(named: Mapping[str, str]) -> Iterator[Problem]:
    """Tasks that take the same file or column."""
    owner: dict[str, str] = {}
    for name, place in named.items():
        if place in owner:
            yield Problem(f"--task {name}", f"takes the same {place!r} as {owner[place]!r}")
        owner[place] = name


def read_tasks(named: Mapping[str, str], file: Path | None, reader: Reader) -> dict[str, Dataset]:
    """The labelled rows of each task; of a file with a label column for each, those that have a label there.

    Args:
        named: from `named_tasks`.
        file: of the rows; None when each task has its own.
        reader: how files are read.

    Raises:
        ColumnsMissing: with every column that is not there.
        DataRejected: with every task that has no row, and every row that has no label at all.
        DataUnreadable: if a file cannot be read.
    """
    missing: list[Problem] = []
    found: dict[str, Dataset] = {}
    remedy = ""
    for name, place in named.items():
        try:
            found[name] = reader.read(place) if file is None else reader.read(file, label=place)
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
