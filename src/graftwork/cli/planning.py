"""Plans of runs on a file, by strategy."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graftwork.errors import ModelUnsupported

if TYPE_CHECKING:
    from graftwork.cli.training.rows import Given
    from graftwork.data.report import DataReport
    from graftwork.data.tokens import TextTokenizer
    from graftwork.registry.base_rows import BaseModel
    from graftwork.training.config import TrainingConfig
    from graftwork.training.costs import Rows
    from graftwork.training.plan import Plan
    from graftwork.training.rows import PreparedRows
    from graftwork.wiring import Services


@dataclass(frozen=True)
class Planned:
    """What runs on these rows would take.

    Attributes:
        base: the base model.
        report: what the check of the rows found.
        prepared: the rows, split.
        rows: what is to be known of them.
        plans: by strategy as it was asked for.
        dtype: of the frozen base.
    """

    base: BaseModel
    report: DataReport
    prepared: PreparedRows
    rows: Rows
    plans: dict[str, Plan]
    dtype: str


def plan_runs(
    opened: Services,
    base: str,
    given: Given,
    config: TrainingConfig,
    strategies: Sequence[str],
) -> Planned:
    """Check the rows and plan a run of each strategy; no weights are read.

    Args:
        opened: the installation.
        base: the base model.
        given: rows to train on, of one task or several, and to judge on.
        config: the training settings; their strategy does not count.
        strategies: what would be trained; `auto` is planned as the dearest thing it may come to train.

    Raises:
        DataRejected: if the check finds errors.
        ModelUnsupported: if the base is no model of texts.
    """
    from graftwork.backbones.device import choose_device, choose_dtype, dtype_name
    from graftwork.backbones.network import read_config
    from graftwork.backbones.tokenizer import load_tokenizer
    from graftwork.training.candidates import dearest
    from graftwork.training.costs import Rows
    from graftwork.training.plan import make_plan

    found = _text_base(opened, base)
    folder = opened.bases.fetch(found)
    tokenizer = load_tokenizer(folder, prompt=found.metadata.prompt)
    limit = min(config.max_length or found.metadata.max_length, found.metadata.max_length)
    began = time.perf_counter()
    report, prepared = _checked(given, config, tokenizer, limit)
    checked = time.perf_counter() - began
    lengths = [len(ids) for ids in tokenizer.encode(prepared.rows.texts, limit)]
    dtype = choose_dtype(choose_device(opened.settings.device), opened.settings.dtype)
    asked = {name: config.model_copy(update={"strategy": name}).scheduled("text") for name in strategies}
    network = read_config(folder)
    plans = _one_of_each_kind(
        asked,
        lambda one: make_plan(
            network, one, strategy=dearest(one), lengths=lengths, classes=len(prepared.label_names), dtype=dtype
        ),
    )
    return Planned(
        base=found,
        report=report,
        prepared=prepared,
        rows=Rows(
            count=len(prepared.rows),
            classes=len(prepared.label_names),
            test=len(prepared.test),
            test_tokens=sum(map(len, tokenizer.encode(prepared.test.texts, limit))),
            check_seconds=checked,
        ),
        plans=plans,
        dtype=dtype_name(dtype),
    )


def _text_base(opened: Services, base: str) -> BaseModel:
    found = opened.bases.resolve(base)
    if found.metadata.modality != "text":
        raise ModelUnsupported(
            f"{base} is a {found.metadata.domain} model, and plans are made for models of texts",
            remedy="Take a base of domain nlp: graft base list shows the domains.",
        )
    return found


def _one_of_each_kind(asked: Mapping[str, TrainingConfig], plan: Callable[[TrainingConfig], Plan]) -> dict[str, Plan]:
    """The plan of each name; what is alike is planned once."""
    made: dict[tuple[str, int, int], Plan] = {}
    for one in asked.values():
        if _kind(one) not in made:
            made[_kind(one)] = plan(one)
    return {name: made[_kind(one)] for name, one in asked.items()}


def _kind(config: TrainingConfig) -> tuple[str, int, int]:
    """What two plans of the same rows and base may differ in."""
    from graftwork.training.candidates import dearest

    return dearest(config), config.fine_tuning.epochs, config.fine_tuning.batch_size


def _checked(
    given: Given, config: TrainingConfig, tokenizer: TextTokenizer, max_length: int
) -> tuple[DataReport, PreparedRows]:
    """What the check finds, and the rows of one task or of several as a run would take them.

    Raises:
        DataRejected: if the check finds errors.
    """
    if given.tasks:
        from graftwork.training.task_rows import check_tasks, prepare_tasks

        found = check_tasks(given.tasks, given.task_tests, tokenizer=tokenizer, max_length=max_length)
        return found, prepare_tasks(given.tasks, given.task_tests, config)
    from graftwork.data.check import check_dataset
    from graftwork.training.rows import prepare_rows

    report = check_dataset(given.rows, tokenizer=tokenizer, max_length=max_length, test=given.test)
    report.raise_for_errors()
    return report, prepare_rows(given.rows, given.test, config)
