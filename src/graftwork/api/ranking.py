"""Scores as the labels a client reads, written as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from graftwork.serving.request import softmax

if TYPE_CHECKING:
    from graftwork.serving.request import Classified

Function = Literal["softmax", "sigmoid", "none"]
Scores = NDArray[np.float32]


class Ranking(NamedTuple):
    """Scores of the texts of one answer, the best of each text first; equal ones stay in the order of the labels.

    Attributes:
        columns: for each text, which label's each score is.
        scores: for each text, the scores, with the digits of float32.
    """

    columns: list[list[int]]
    scores: list[list[float]]


def best_first(scores: Scores) -> Ranking:
    """Rank finite scores, float32 `[texts, classes]`."""
    falling = -scores
    columns = falling.argsort(axis=1, kind="stable").tolist()
    falling.sort(axis=1, kind="stable")  # the same order, in one call less than taking them by their columns
    return Ranking(columns, (-falling).tolist())


def best_first_of_each(answers: Sequence[Classified]) -> list[Ranking]:
    """Rank the probabilities of several answers without tasks: those with as many classes all at once.

    Of one short answer, the calls into numpy cost several times what they compute.
    """
    if len(answers) == 1:
        return [best_first(softmax(answers[0].logits))]
    alike: dict[int, list[int]] = {}
    for index, answer in enumerate(answers):
        alike.setdefault(answer.logits.shape[1], []).append(index)
    found: dict[int, Ranking] = {}
    for indices in alike.values():
        columns, scores = best_first(softmax(np.concatenate([answers[index].logits for index in indices])))
        start = 0
        for index in indices:
            end = start + len(answers[index].logits)
            found[index] = Ranking(columns[start:end], scores[start:end])
            start = end
    return [found[index] for index in range(len(answers))]


def written(labels: tuple[str, ...], ranking: Ranking, top_k: int | None) -> list[str]:
    """A JSON array for each text.

    Written by hand: of a short answer, making Python objects of it costs more than all else that is done for it.

    Args:
        labels: names of the columns.
        ranking: their scores.
        top_k: how many to keep; all if None.

    Example:
        >>> written(("a", "b", "c"), Ranking([[1, 0, 2]], [[0.5, 0.25, 0.25]]), 2)
        ['[{"label":"b","score":0.5},{"label":"a","score":0.25}]']
    """
    opened = _opened(labels)
    rows = []
    for columns, scores in zip(*ranking, strict=True):
        # Written together by pydantic: Python's own way of writing a number is slow.
        numbers = to_json(scores[:top_k])[1:-1].decode().split(",")
        parts = chain.from_iterable(zip(map(opened.__getitem__, columns), numbers, strict=False))
        rows.append(f"[{''.join(parts)[2:]}}}]")
    return rows


@lru_cache(maxsize=10_000)
def _opened(labels: tuple[str, ...]) -> tuple[str, ...]:
    """What stands before the score of each label, the end of the one before it included."""
    return tuple(f'}},{{"label":{json.dumps(label, ensure_ascii=False)},"score":' for label in labels)


def ranked(labels: tuple[str, ...], scores: Scores, top_k: int | None) -> list[str]:
    """Labels by falling score, a JSON array for each row of float32 `[texts, classes]`."""
    return written(labels, best_first(scores), top_k)


def transformed(answer: Classified, function: Function | None) -> Scores:
    """The scores that Hugging Face's `function_to_apply` asks for, probabilities by default; a row for each text.

    All of them come from the calibrated logits: the temperature is part of the classifier. They have the digits of
    float32.
    """
    if function == "sigmoid":
        scores: Scores = (1 / (1 + np.exp(-answer.logits.astype(np.float64)))).astype(np.float32)
        return scores
    return answer.logits if function == "none" else answer.probabilities
