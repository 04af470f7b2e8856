"""From contenders to an answer: who comes first, who is on the front, and the reasons in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from graftwork.adaptation import STRATEGIES
from graftwork.training.config import TrainingConfig
from graftwork.training.mistakes import without_effect
from graftwork.training.recommending.costs import peak_memory
from graftwork.training.recommending.results import Candidate, JudgedBase
from graftwork.training.recommending.rules import GAINS, Rule

if TYPE_CHECKING:
    from graftwork.evaluation.results import Interval
    from graftwork.training.recommending.clock import Budget
    from graftwork.training.recommending.contest import Contender, Contest
    from graftwork.training.recommending.experience import Experience
    from graftwork.training.rows import PreparedRows

ALIKE = 0.001
"""Expected accuracies that are taken for equal: of those so near the best, what is cheapest to keep comes first."""
_PLANNING = 3.0  # seconds that a plan of memory takes, until one was timed

Price = Callable[[float], float | None]
"""What seconds of training cost."""


def best_first(contenders: Sequence[Contender]) -> list[Contender]:
    """Contenders by expected accuracy, those as good as the best by their bytes; the refused ones come last."""
    best = max((one.accuracy.value for one in contenders if not one.refused), default=0.0)

    def place(one: Contender) -> tuple[bool, bool, float, float]:
        level = one.accuracy.value >= best - ALIKE
        return bool(one.refused), not level, one.stored if level else -one.accuracy.value, one.seconds

    return sorted(contenders, key=place)


def described(
    contest: Contest, prepared: PreparedRows, experience: Experience, price: Price | None, budget: Budget
) -> list[Candidate]:
    """Candidates with all that is known of them, the best first.

    The peak of memory is planned for as many as there is time for, from the first on.

    Args:
        contest: the contenders, after their trials.
        prepared: all rows; those that were read may be a sample of them.
        experience: what was seen of strategies.
        price: of seconds.
        budget: of time.
    """
    planning, planned = _PLANNING, []
    for one in best_first(contest.contenders):
        memory = None
        if budget.left >= planning:
            began = budget.clock()
            known = one.known
            memory = peak_memory(known.backbone, one.strategy, one.config, prepared, max_length=known.max_length)
            planning = budget.clock() - began
        seconds = contest.seconds(one) * len(prepared.rows) / len(one.known.prepared.rows)
        planned.append(
            Candidate(
                base=one.known.name,
                strategy=one.strategy,
                settings=differing(one.config),
                accuracy=one.accuracy,
                known_from="trial" if one.trials else "probe",
                seen=experience.count(one.strategy),
                seconds=round(seconds, 3),
                memory_bytes=memory,
                stored_bytes=one.stored,
                latency_ms=one.latency,
                price=None if price is None else price(seconds),
                trials=tuple(one.trials),
                refused=one.refused,
            )
        )
    return with_front(planned)


def with_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The same, with those marked that nobody within the limits beats in both accuracy and seconds.

    Example:
        >>> with_front([Candidate(base="b", strategy="lora")])[0].front
        False
    """
    able = [one for one in candidates if not one.refused and one.accuracy is not None and one.seconds is not None]
    front = {id(one) for one in able if not any(_beats(other, one) for other in able)}
    return [one.model_copy(update={"front": id(one) in front}) for one in candidates]


def _beats(other: Candidate, one: Candidate) -> bool:
    theirs, mine = (((each.accuracy.value if each.accuracy else 0.0), -(each.seconds or 0.0)) for each in (other, one))
    return theirs != mine and theirs[0] >= mine[0] and theirs[1] >= mine[1]


def differing(config: TrainingConfig) -> tuple[str, ...]:
    """Settings that are not the defaults, as `--set` takes them; strategy and seed have options of their own.

    Those of other strategies, which `TrainingConfig.parse` would refuse, are left out.
    """
    default = TrainingConfig().model_dump(mode="json")
    own = config.model_dump(mode="json")
    idle = {problem.where for problem in without_effect(own, config.strategy, default)}
    return tuple(
        f"{name}={_spelled(value)}"
        for name, value in _differences(own, default)
        if name not in ("strategy", "seed") and not any(name == one or name.startswith(f"{one}.") for one in idle)
    )


def _differences(own: dict[str, Any], default: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in own.items():
        usual = default.get(name)
        if isinstance(value, dict) and isinstance(usual, dict):
            yield from _differences(value, usual, f"{prefix}{name}.")
        elif value != usual:
            yield f"{prefix}{name}", value


def _spelled(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def reasons_for(
    chosen: Candidate,
    candidates: Sequence[Candidate],
    bases: Sequence[JudgedBase],
    rule: tuple[Rule, str],
    experience: Experience,
) -> list[str]:
    """Why it was chosen, a sentence each.

    Args:
        chosen: the choice.
        candidates: all of them.
        bases: all bases.
        rule: the rule of thumb that fits, and its reason.
        experience: what was seen of strategies.
    """
    by, why = rule
    told = [*_of_base(chosen, bases), *_of_strategy(chosen, experience)]
    if chosen.known_from == "rules":
        told.append(f"{chosen.strategy}: {why} ({by.source})")
    elif by.strategy != chosen.strategy:
        told.append(f"the rule of thumb alone would take {by.strategy}: {why}")
    else:
        told.append(f"the rule of thumb agrees: {why}")
    cheaper = [one for one in candidates if one.front and one is not chosen]
    if cheaper and chosen.seconds is not None:
        fastest = min(cheaper, key=lambda one: one.seconds or 0.0)
        if fastest.accuracy is not None and fastest.seconds is not None and fastest.seconds < chosen.seconds:
            told.append(
                f"{fastest.strategy} on {fastest.base} trains in about {fastest.seconds:.1f} s instead of "
                f"{chosen.seconds:.1f} and is expected at {percent(fastest.accuracy)}"
            )
    return told


def _of_base(chosen: Candidate, bases: Sequence[JudgedBase]) -> Iterator[str]:
    own = next(base for base in bases if base.name == chosen.base)
    if own.compatibility.reasons:
        yield f"{own.name} suits these rows badly: {'; '.join(own.compatibility.reasons)}"
    if own.evidence is None:
        if len(bases) > 1:
            yield f"{own.name}: of the bases that suit these rows it is the smallest; nothing was measured on them"
        return
    read = [base for base in bases if base.evidence is not None and base is not own]
    others = ", ".join(f"{base.name}'s {base.evidence.accuracy.value:.1%}" for base in read if base.evidence)
    yield (
        f"{own.name}: a probe on its frozen features has {percent(own.evidence.accuracy)} by cross-validation over "
        f"{own.evidence.rows:,} rows" + (f"; {others}" if others else "")
    )
    better = [base.name for base in read if base.evidence and base.evidence.log_me > own.evidence.log_me]
    if better:
        yield f"LogME would put {' and '.join(better)} before it: the bases are close"


def _of_strategy(chosen: Candidate, experience: Experience) -> Iterator[str]:
    title = STRATEGIES[chosen.strategy].title
    if chosen.trials:
        last = chosen.trials[-1]
        yield (
            f"{title}: a trial of {last.epochs} epochs on {last.rows:,} rows ({last.share:.0%} of a run) mended "
            f"{last.mended:+.0%} of its start's errors (± {last.spread:.0%}) on the validation rows: "
            f"{last.start:.1%} became {last.accuracy:.1%}"
        )
    elif chosen.known_from != "rules" and GAINS[chosen.strategy].spread:
        seen = experience.count(chosen.strategy)
        sources = f"{title}: no trial; expected from {GAINS[chosen.strategy].source}"
        yield sources + (f"; seen {seen} times here" if seen else "")
    if chosen.settings:
        yield f"settings: {', '.join(chosen.settings)}"


def percent(interval: Interval) -> str:
    """An accuracy with its limits."""
    return f"{interval.value:.1%} [{interval.low:.1%}, {interval.high:.1%}]"
