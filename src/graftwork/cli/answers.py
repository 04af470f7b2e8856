"""Printing what an adapter answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graftwork.registry.versions import AdapterVersion
    from graftwork.serving.request import Classified

Ranked = list[tuple[str, float]]
"""Labels with their probabilities, the best first."""


def ranked(labels: Sequence[str], row: Any, count: int | None) -> Ranked:
    """The best labels of a text; of equal ones the first stays first.

    Args:
        labels: in the order of the columns.
        row: probabilities `[classes]`.
        count: how many; all if None.
    """
    order = sorted(range(len(row)), key=lambda index: (-float(row[index]), index))
    return [(labels[index], float(row[index])) for index in order[:count]]


def as_members(best: Ranked) -> list[dict[str, Any]]:
    """The same as JSON has it."""
    return [{"label": label, "score": score} for label, score in best]


def as_words(best: Ranked) -> str:
    """The same as tables have it."""
    return ", ".join(f"{label} {score:.1%}" for label, score in best)


def print_answers(version: AdapterVersion, results: Sequence[Any], *, fallback_for: str | None, **asked: str) -> None:
    """Print results as JSON.

    Args:
        version: who answered.
        results: of each text.
        fallback_for: for which adapter it answered, if for another.
        asked: what else was asked for.
    """
    from graftwork.cli.console import print_json

    fallback = {} if fallback_for is None else {"fallback_for": fallback_for}
    print_json({"model": version.reference, "digest": version.digest, **fallback, **asked, "results": results})


def print_answer_table(
    version: AdapterVersion, columns: Iterable[str], lines: Sequence[tuple[str, ...]], *, fallback_for: str | None
) -> None:
    """Print results as a table, each line beginning with its text; and for whom it answered, if for another."""
    from graftwork.cli.console import print_table, say, shortened

    if fallback_for is not None:
        say(f"{fallback_for} has no adapter yet: ", (version.reference, "bold"), " answers for it.")
    print_table(version.reference, ("text", *columns), [(shortened(text, 60), *rest) for text, *rest in lines])


def tell_answer(
    version: AdapterVersion,
    answer: Classified,
    texts: Sequence[str],
    *,
    top_k: int | None,
    fallback_for: str | None,
    as_json: bool,
) -> None:
    """Print what an adapter of one task answered.

    Args:
        version: who answered.
        answer: what.
        texts: to what.
        top_k: best labels that are shown; in a table three, in JSON all, if None.
        fallback_for: for which adapter it answered, if for another.
        as_json: print JSON.
    """
    count = top_k or (None if as_json else 3)
    best = [ranked(version.labels, row, count) for row in answer.probabilities]
    if as_json:
        results = [{"text": text, "labels": as_members(one)} for text, one in zip(texts, best, strict=True)]
        print_answers(version, results, fallback_for=fallback_for)
        return
    lines = [(text, as_words(one[:1]), as_words(one[1:])) for text, one in zip(texts, best, strict=True)]
    print_answer_table(version, ("answer", "then"), lines, fallback_for=fallback_for)
