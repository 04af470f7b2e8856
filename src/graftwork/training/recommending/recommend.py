"""Which base, which strategy, which settings: from the rows to a reasoned choice within a budget of time.

First what costs nothing (compatibility, rules of thumb), then evidence from frozen features, then short trials, as
far as the budget reaches. What was not reached is said, and the choice then rests on what was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from graftwork.adaptation import STRATEGIES
from graftwork.data.check import check_dataset
from graftwork.errors import ModalityMismatch, NotFound, Problem
from graftwork.training.config import TrainingConfig
from graftwork.training.progress import Progress, Silent
from graftwork.training.recommending.answer import Price, described, reasons_for
from graftwork.training.recommending.bases import Probed, probes_compared
from graftwork.training.recommending.clock import Budget
from graftwork.training.recommending.compatibility import judge_compatibility
from graftwork.training.recommending.contest import Contest, Limits, contenders_of, possible_strategies
from graftwork.training.recommending.experience import Experience
from graftwork.training.recommending.reading import OfferedBase, Reader
from graftwork.training.recommending.results import Candidate, JudgedBase, Recommendation
from graftwork.training.recommending.rules import Rule, Task, by_rules
from graftwork.training.rows import PreparedRows, prepare_rows

if TYPE_CHECKING:
    from graftwork.data.dataset import Dataset
    from graftwork.training.recommending.trials import KnownBase

__all__ = ["Limits", "OfferedBase", "recommend"]

_FOR_PLANS = 0.1  # of the budget: planning memory
_ORDER = {"good": 0, "low": 1, "none": 2}
_ANYTHING, _NOTHING_SEEN = Limits(), Experience()
_Judged = tuple[OfferedBase, JudgedBase]


def recommend(
    rows: Dataset,
    bases: Sequence[OfferedBase],
    *,
    budget: Budget,
    test: Dataset | None = None,
    config: TrainingConfig | None = None,
    limits: Limits = _ANYTHING,
    experience: Experience = _NOTHING_SEEN,
    price: Price | None = None,
    progress: Progress | None = None,
) -> Recommendation:
    """Recommend a base, a strategy and its settings for labelled rows.

    The rows that `graft train` would hold out for the judgement are left out here too, so that its judgement of what is
    recommended stays one of rows that had no part in the choice.

    Args:
        rows: labelled rows, as they were read.
        bases: to choose from.
        budget: seconds for it. It is overdrawn by loading a base, a batch, an optimizer step or an evaluation at most.
        test: rows to judge on, which are not looked at; without them a share of `rows` is held out.
        config: settings that all candidates have; its strategy does not count.
        limits: of what is recommended.
        experience: what was seen of strategies before.
        price: of seconds of training.
        progress: told of stages and steps.

    Raises:
        DataRejected: if the check of the rows finds errors; every one is listed.
        ModalityMismatch: if no base reads what the rows are.
        NotFound: if there is no base, or none can be loaded; why is listed.
    """
    if not bases:
        raise NotFound("there is no base model to choose from", remedy="Add one: graft base add PATH --name NAME.")
    config, progress = config or TrainingConfig(), progress or Silent()
    progress.stage("checking rows", None)
    check_dataset(rows, test=test).raise_for_errors()
    prepared = prepare_rows(rows, test, config)
    readable, unreadable = _judge(bases, prepared.rows)
    reader = Reader(prepared, config, budget, progress)
    judged = reader.read_all(readable)
    _refuse_missing(judged)
    contenders = [
        one
        for known, probed in zip(reader.known, _compared(reader.known, experience), strict=True)
        for one in contenders_of(
            known, probed, config, experience, limits, possible_strategies(known.backbone), rows=len(prepared.rows)
        )
    ]
    contest = Contest(contenders, budget, progress)
    if len(prepared.validation):
        contest.run(reserved=_FOR_PLANS * budget.seconds)
    found = [*judged, *unreadable]
    rule, why = _rule(prepared, found, reader, budget)
    candidates = (
        described(contest, prepared, experience, price, budget) if contenders else _by_rules_alone(judged, rule)
    )
    chosen = next((one for one in candidates if not one.refused), None)
    return Recommendation(
        source=rows.source,
        rows=len(prepared.rows),
        classes=len(prepared.label_names),
        budget=budget.seconds,
        spent=round(budget.spent, 3),
        known_from=chosen.known_from if chosen else "rules",
        bases=tuple(found),
        candidates=tuple(candidates),
        chosen=chosen,
        reasons=tuple(reasons_for(chosen, candidates, found, (rule, why), experience)) if chosen else (),
        notes=(*reader.notes, *_missing_stages(contest)),
    )


def _judge(bases: Sequence[OfferedBase], rows: Dataset) -> tuple[list[_Judged], list[JudgedBase]]:
    """The bases that read what the rows are, those that suit them best and are smallest first; and the others.

    Raises:
        ModalityMismatch: if none does.
    """
    judged = [(base, base.judged(judge_compatibility(base.metadata, rows))) for base in bases]
    readable = [pair for pair in judged if pair[1].compatibility.level != "none"]
    if not readable:
        raise ModalityMismatch(
            f"no base model reads {rows.modality}s",
            problems=[Problem(found.name, found.compatibility.reasons[0]) for _, found in judged],
            remedy="Add a base that does: graft base add PATH --name NAME.",
        )
    readable.sort(key=lambda pair: (_ORDER[pair[1].compatibility.level], pair[1].parameters, pair[0].name))
    return readable, [found for _, found in judged if found.compatibility.level == "none"]


def _compared(known: Sequence[KnownBase], experience: Experience) -> list[Probed]:
    if not known:
        return []
    apart = experience.apart([one.backbone.fingerprint for one in known])
    return probes_compared(np.column_stack([one.right for one in known]), apart)


def _refuse_missing(judged: Sequence[JudgedBase]) -> None:
    missing = [Problem(found.name, found.missing) for found in judged if found.missing]
    if len(missing) == len(judged):
        raise NotFound(
            "no base model can be loaded",
            problems=missing,
            remedy="graft base list shows what there is; graft fsck finds damage.",
        )


def _rule(prepared: PreparedRows, judged: Sequence[JudgedBase], reader: Reader, budget: Budget) -> tuple[Rule, str]:
    """The rule of thumb for the base that suits the rows best, and its reason with the numbers."""
    base = next(found for found in judged if not found.missing)
    known = next((one for one in reader.known if one.name == base.name), None)
    task = Task(
        rows=len(prepared.rows),
        classes=len(prepared.label_names),
        validation=len(prepared.validation),
        parameters=base.parameters,
        strategies=possible_strategies(known.backbone) if known else list(STRATEGIES),
        far=base.compatibility.level == "low",
        seconds=known.reading if known else None,
        budget=budget.seconds,
    )
    rule = by_rules(task)
    return rule, rule.told(task)


def _by_rules_alone(judged: Sequence[JudgedBase], rule: Rule) -> list[Candidate]:
    """A candidate a base, when nothing was measured."""
    return [Candidate(base=found.name, strategy=rule.strategy) for found in judged if not found.missing]


def _missing_stages(contest: Contest) -> list[str]:
    if not contest.contenders:
        return ["the budget was too small to read the rows through any base: the choice rests on rules of thumb alone"]
    if not any(one.trials for one in contest.contenders):
        return ["the budget was too small for any trial, or nothing could be better: the choice rests on probes"]
    return []
