"""Showing adapters of several tasks: each task's quality, and what each answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from graftwork.cli.answers import as_members, as_words, print_answer_table, print_answers, ranked

if TYPE_CHECKING:
    from graftwork.evaluation.results import Evaluation
    from graftwork.registry.manifest import Manifest
    from graftwork.registry.tasks import TaskColumns
    from graftwork.registry.versions import AdapterVersion
    from graftwork.serving.request import Classified


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
    wanted: TaskColumns | None,
    *,
    top_k: int | None,
    fallback_for: str | None,
    as_json: bool,
) -> None:
    """Print what an adapter of several tasks answered.

    Args:
        version: who answered.
        answer: what.
        texts: to what.
        wanted: the task that was asked for; all if None.
        top_k: best labels of each that are shown; in a table the best alone, in JSON all, if None.
        fallback_for: for which adapter it answered, if for another.
        as_json: print JSON.
    """
    shown = answer.tasks if wanted is None else (wanted,)
    count = top_k or (None if as_json else 1)
    best = {each.name: [ranked(each.labels, row, count) for row in answer.part(each).probabilities] for each in shown}
    if not as_json:
        lines = [(text, *(as_words(rows[place]) for rows in best.values())) for place, text in enumerate(texts)]
        print_answer_table(version, best, lines, fallback_for=fallback_for)
        return
    results = []
    for place, text in enumerate(texts):
        labels = {name: as_members(rows[place]) for name, rows in best.items()}
        results.append({"text": text, **({"tasks": labels} if wanted is None else {"labels": labels[wanted.name]})})
    asked = {} if wanted is None else {"task": wanted.name}
    print_answers(version, results, fallback_for=fallback_for, **asked)
