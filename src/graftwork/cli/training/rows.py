"""The rows that the options of `graft train` name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graftwork.cli.training.tasks import named_tasks, read_tasks

if TYPE_CHECKING:
    from graftwork.cli.training.request import TrainRequest
    from graftwork.data.dataset import Dataset


@dataclass(frozen=True)
class Given:
    """The rows of a run.

    Attributes:
        rows: all rows to train on.
        test: rows to judge on; None to hold some out.
        tasks: the same rows by task, of several; none of a single one.
        task_tests: rows to judge on by task.
        replay: old rows to learn and to check on again when an adapter goes on.
        sources: rows of earlier tasks, on which it is measured what an adapter that goes on forgets.
        adapt_to: rows without labels of the domain to adapt to.
    """

    rows: Dataset
    test: Dataset | None = None
    tasks: Mapping[str, Dataset] = field(default_factory=dict)
    task_tests: Mapping[str, Dataset] | None = None
    replay: Dataset | None = None
    sources: tuple[Dataset, ...] = ()
    adapt_to: Dataset | None = None


def read_given(asked: TrainRequest) -> Given:
    """Read all files of rows.

    Raises:
        ColumnsMissing: with every column that is not there.
        DataRejected: with every task that has no row, and every row that has no label at all.
        DataUnreadable: if a file cannot be read.
    """
    reader, named = asked.reader, named_tasks(asked)
    if named:
        from graftwork.training.task_rows import join_tasks

        tasks = read_tasks(named, asked.file, reader)
        tests = None if asked.test is None else read_tasks(named, asked.test, reader)
        return Given(join_tasks(tasks), tasks=tasks, task_tests=tests)
    assert asked.file is not None
    return Given(
        reader.read(asked.file),
        test=None if asked.test is None else reader.read(asked.test),
        replay=None if asked.replay is None else reader.read(asked.replay),
        sources=tuple(reader.read(source) for source in asked.sources or ()),
        adapt_to=None if asked.adapt_to is None else reader.read_unlabelled(asked.adapt_to),
    )
