"""Which options of `graft train` exclude which, which need another, and which are missing: all mistakes at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graftwork.cli.reading import LABEL
from graftwork.cli.training.tasks import task_mistakes
from graftwork.errors import Problem, SettingsInvalid

if TYPE_CHECKING:
    from graftwork.cli.training.request import TrainRequest

_OWN_FILES = "--task NAME=FILE"
_CONVERSATIONS = "conversations"
_APART = {
    ("--config", "--like"): "both say where the settings begin; single settings are given with --set",
    ("--task", "--parent"): "several tasks are trained on the base itself",
    (
        "--task",
        "--continue",
    ): "the gate between two versions judges one set of labels; several tasks are trained anew on all rows",
    ("--task", "--max-bytes"): "the rank of several tasks is said with --set lora.rank",
    ("--task", "--find-rate"): "the rate is looked for with one task",
    ("--task", "--label"): "each task names a column of its own",
    (_OWN_FILES, "--test"): "of each task's file a share is held out",
    ("--dry-run", "--find-rate"): "each of them ends without training",
    ("--dry-run", "--resume"): "--dry-run trains nothing, so there is nothing to go on with",
    ("--find-rate", "--resume"): "--find-rate keeps nothing, so there is nothing to go on with",
    ("--continue", "--base"): "the adapter goes on as it is, on its own base",
    ("--continue", "--parent"): "the adapter goes on as it is, on its own parent",
    ("--continue", "--strategy"): "the adapter goes on as it is, by its own strategy",
    ("--continue", "--test"): "the gate keeps some of the new rows back and judges on them",
    ("--continue", "--max-bytes"): "the adapter goes on as it is, with its own ranks",
    ("--continue", "--find-rate"): "--find-rate looks for the rate on the base itself",
    ("--parent", "--find-rate"): "--find-rate looks for the rate on the base itself, not on a parent; "
    "--set fine_tuning.learning_rate=auto looks for it there",
    ("--adapt-to", "--parent"): "only the base itself is adapted to rows without labels",
    ("--adapt-to", "--continue"): "adapt in a training run of its own",
    ("--adapt-to", "--find-rate"): "adapt in a training run of its own",
    ("--adapt-to", "--dry-run"): "adapt in a training run of its own",
    ("--adapt-to", "--task"): "adapt in a training run of its own",
    ("--transfer", "--parent"): "transfer is measured for children of a base model",
    ("--transfer", "--continue"): "transfer is measured for adapters that were trained at once",
    ("--transfer", "--task"): "transfer is measured for adapters of one task",
    ("--transfer", "--adapt-to"): "nothing from scratch could be adapted to rows without labels",
    ("--transfer", "--dry-run"): "--dry-run trains nothing that could be measured",
    ("--transfer", "--find-rate"): "--find-rate trains nothing that could be measured",
    (_CONVERSATIONS, "--transfer"): "transfer is measured for classifiers",
    (_CONVERSATIONS, "--parent"): "a model that answers is trained on the base itself",
    (_CONVERSATIONS, "--continue"): "a model that answers is trained anew",
    (_CONVERSATIONS, "--max-bytes"): "the rank is said with --set lora.rank",
    (_CONVERSATIONS, "--dry-run"): "plans are made for classifiers",
    (_CONVERSATIONS, "--find-rate"): "the rate is looked for with classifiers",
    (_CONVERSATIONS, "--adapt-to"): "classifiers are adapted to rows without labels",
}
"""Pairs that cannot be given together, and why."""

_NEEDS = {
    "--replay": ("--continue", "goes with --continue", "Say which adapter to go on with (--continue)."),
    "--source": ("--continue", "goes with --continue", "Say which adapter to go on with (--continue)."),
    "--adaptation": (
        "--adapt-to",
        "has no rows to adapt to",
        "Give unlabelled rows of the target domain with --adapt-to FILE.",
    ),
}
"""Options that need another: which one, what is said without it, and the remedy."""


def check_request(asked: TrainRequest) -> None:
    """Refuse what is missing and what does not go together.

    Raises:
        SettingsInvalid: with every mistake.
    """
    given = _given(asked)
    found = [*_missing(asked), *_lonely(given), *task_mistakes(asked), *_clashing(given)]
    if found:
        raise SettingsInvalid(
            "; ".join(error.message for error in found),
            problems=[problem for error in found for problem in error.problems],
            remedy=" ".join(dict.fromkeys(error.remedy for error in found)),
        )


def refuse_beside_conversations(asked: TrainRequest, file: Path) -> None:
    """Refuse what does not go with a file of conversations.

    Raises:
        SettingsInvalid: with all of it.
    """
    beside = {other: why for (one, other), why in _APART.items() if one == _CONVERSATIONS and other in _given(asked)}
    if beside:
        raise SettingsInvalid(
            f"{file} holds conversations, which do not go with {', '.join(beside)}",
            problems=[Problem(option, why) for option, why in beside.items()],
            remedy="Leave it out. If the rows are meant for a classifier, name its columns (--text prompt --label …).",
        )


def _given(asked: TrainRequest) -> set[str]:
    """The options that were given, of those that a rule speaks of."""
    options = {
        "--config": asked.settings_file,
        "--like": asked.like,
        "--task": asked.task,
        _OWN_FILES: asked.task and asked.file is None,
        "--base": asked.base,
        "--parent": asked.parent,
        "--strategy": asked.strategy,
        "--continue": asked.continued,
        "--replay": asked.replay,
        "--source": asked.sources,
        "--test": asked.test,
        "--label": asked.label != LABEL,
        "--max-bytes": asked.max_bytes,
        "--adapt-to": asked.adapt_to,
        "--adaptation": asked.adaptation,
        "--transfer": asked.transfer,
        "--dry-run": asked.dry_run,
        "--find-rate": asked.find_rate,
        "--resume": asked.resume,
    }
    return {option for option, value in options.items() if value}


def _missing(asked: TrainRequest) -> Iterator[SettingsInvalid]:
    told = ["argument 'FILE' (or --task NAME=FILE, twice or more)"] if asked.file is None and not asked.task else []
    options = ["'--name'"] if asked.name is None and asked.continued is None else []
    if asked.base is None and asked.parent is None and asked.continued is None:
        options.append("'--base' (or '--parent')")
    if options:
        told.append(f"option{'s' if len(options) > 1 else ''} {' and '.join(options)}")
    if told:
        yield SettingsInvalid(f"missing {' and '.join(told)}", remedy="graft train --help tells what there is.")


def _lonely(given: set[str]) -> Iterator[SettingsInvalid]:
    """Options without the one that they need."""
    for option, (needed, told, remedy) in _NEEDS.items():
        if option in given and needed not in given:
            yield SettingsInvalid(f"{option} {told}", remedy=remedy)


def _clashing(given: set[str]) -> Iterator[SettingsInvalid]:
    """Options that exclude each other."""
    found = {pair: why for pair, why in _APART.items() if given.issuperset(pair)}
    if found:
        yield SettingsInvalid(
            _headline(list(found)),
            problems=[Problem(f"{one} and {other}", why) for (one, other), why in found.items()],
            remedy="Give one of them and leave the other out.",
        )


def _headline(pairs: Sequence[tuple[str, str]]) -> str:
    first = {one for one, _ in pairs}
    if len(first) == 1:
        return f"{first.pop()} cannot be given with {' and '.join(other for _, other in pairs)}"
    return f"{' and '.join(dict.fromkeys(option for pair in pairs for option in pair))} cannot be given together"
