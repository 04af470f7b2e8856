"""What verbs do for adapters of several tasks: reading `--task`, and showing each task's quality."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from graftwork.errors import ColumnsMissing, DataRejected, Problem, SettingsInvalid

if TYPE_CHECKING:
    from graftwork.data.dataset import Dataset
    from graftwork.evaluation.results import Evaluation
    from graftwork.registry.manifest import Manifest
    from graftwork.registry.versions import AdapterVersion
    from graftwork.serving.request import Classified

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
        if file is None:
            raise SettingsInvalid(
                "missing argument 'FILE' (or --task NAME=FILE, twice or more)",
                remedy="graft train --help tells what there is.",
            )
        if compare_single:
            problems = [Problem("--compare-single", "goes with --task")]
            raise SettingsInvalid("there are no tasks to compare", problems=problems, remedy=_BOTH_WAYS)
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


class Given(NamedTuple):
    """The rows to train on.

    Attributes:
        rows: all of them.
        test: rows to judge on.
        tasks: the same rows by task, of several; none of a single one.
        task_tests: rows to judge on by task.
    """

    rows: Dataset
    test: Dataset | None
    tasks: Mapping[str, Dataset]
    task_tests: Mapping[str, Dataset] | None


def asked_of_tasks(compare_single: bool) -> list[str]:
    """The setting that the flag stands for."""
    return ["tasks.compare_single=true"] if compare_single else []


def read_given(
    named: Mapping[str, str], file: Path | None, test: Path | None, label: str, read: Callable[..., Dataset]
) -> Given:
    """The rows of the files that were given, by task when tasks are named.

    Args:
        named: from `named_tasks`.
        file: of the rows; None when each task has its own.
        test: of the rows to judge on.
        label: the label column where there is one.
        read: `read_dataset` with all else that was said of the files.

    Raises:
        ColumnsMissing: with every column that is not there.
        DataRejected: with every task that has no row, and every row that has no label at all.
        DataUnreadable: if a file cannot be read.
    """
    if not named:
        return Given(read(file, label=label), None if test is None else read(test, label=label), {}, None)
    from graftwork.training.task_rows import join_tasks

    tasks = read_tasks(named, file, read)
    return Given(join_tasks(tasks), None, tasks, None if test is None else read_tasks(named, test, read))


def read_tasks(named: Mapping[str, str], file: Path | None, read: Callable[..., Dataset]) -> dict[str, Dataset]:
    """The labelled rows of each task; of a file with a label column for each, those that have a label there."""
    missing: list[Problem] = []
    found: dict[str, Dataset] = {}
    remedy = ""
    for name, place in named.items():
        source, label = (place, "label") if file is None else (file, place)
        try:
            found[name] = read(source, label=label)
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


def print_tasks(manifest: Manifest, *, wholly: bool = False) -> None:
    """The quality of each task, and how it does against a run of its own.

    Args:
        manifest: of an adapter of several tasks.
        wholly: show the classes and the confusions too.
    """
    from graftwork.cli.console import print_evaluation_table, say
    from graftwork.evaluation.results import Evaluation
    from graftwork.evaluation.tables import quality_table

    for task in manifest.tasks:
        if task.metrics is None:
            say(f"{task.name} was not judged: no rows were held out. graft evaluate --task {task.name} judges it.")
        elif wholly:
            print_evaluation(task.name, Evaluation.model_validate(task.metrics))
        else:
            print_evaluation_table(quality_table(Evaluation.model_validate(task.metrics), name=task.name))
        if task.alone is not None:
            say(f"{task.alone['verdict']}.")


def print_evaluation(name: str, result: Evaluation) -> None:
    """Quality, classes, and which are taken for which."""
    from graftwork.cli.console import print_evaluation_table
    from graftwork.evaluation.tables import (
        class_table,
        confusion_table,
        forgetting_table,
        mistakes_table,
        quality_table,
    )

    print_evaluation_table(quality_table(result, name=name))
    if result.forgetting:
        print_evaluation_table(forgetting_table(result.forgetting))
    print_evaluation_table(class_table(result))
    small = len(result.classes) <= 12
    print_evaluation_table(confusion_table(result) if small else mistakes_table(result))


def tell_tasks(
    version: AdapterVersion,
    answer: Classified,
    texts: Sequence[str],
    *,
    task: str | None,
    top_k: int | None,
    fallback: Mapping[str, str],
    as_json: bool,
) -> None:
    """Print what an adapter of several tasks answered.

    Args:
        version: who answered.
        answer: what.
        texts: to what.
        task: the one that was asked for; all if None.
        top_k: best labels of each that are shown; in a table the best alone, in JSON all, if None.
        fallback: the member that says for whom it answered.
        as_json: print JSON.

    Raises:
        RequestInvalid: if there is no such task.
    """
    from graftwork.cli.console import print_json, print_table, say, shortened
    from graftwork.registry.tasks import task_of

    wanted = task_of(answer.tasks, task, version.reference)
    shown = answer.tasks if wanted is None else (wanted,)
    ranked = {
        each.name: [_ranked(each.labels, row, top_k) for row in answer.part(each).probabilities] for each in shown
    }
    if as_json:
        results = []
        for place, text in enumerate(texts):
            labels = {
                name: [{"label": label, "score": score} for label, score in rows[place]]
                for name, rows in ranked.items()
            }
            results.append({"text": text, **({"tasks": labels} if wanted is None else {"labels": labels[wanted.name]})})
        asked = {} if wanted is None else {"task": wanted.name}
        print_json({"model": version.reference, "digest": version.digest, **fallback, **asked, "results": results})
        return
    if fallback:
        say(f"{fallback['fallback_for']} has no adapter yet: ", (version.reference, "bold"), " answers for it.")
    lines = [
        (
            shortened(text, 60),
            *(
                ", ".join(f"{label} {score:.1%}" for label, score in rows[place][: top_k or 1])
                for rows in ranked.values()
            ),
        )
        for place, text in enumerate(texts)
    ]
    print_table(version.reference, ("text", *ranked), lines)


def _ranked(labels: Sequence[str], row: Any, count: int | None) -> list[tuple[str, float]]:
    order = sorted(range(len(row)), key=lambda index: (-float(row[index]), index))
    return [(labels[index], float(row[index])) for index in order[:count]]
