"""Scores as the labels a client reads, written as JSON."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from functools import lru_cache
from math import exp, fsum
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic_core import to_json

if TYPE_CHECKING:
    from graftwork.serving.request import Classified

_FEW = 64  # numbers

Function = Literal["softmax", "sigmoid", "none"]


def ranked(labels: tuple[str, ...], scores: Sequence[Sequence[float]], top_k: int | None) -> list[str]:
    """Labels by falling score, a JSON array for each row; equal scores stay in the order of `labels`.

    Written by hand: of a short answer, making Python objects of it costs more than all else that is done for it.

    Args:
        labels: names of the columns.
        scores: finite, a row of numbers for each text.
        top_k: how many to keep; all if None.

    Example:
        >>> ranked(("a", "b", "c"), [[0.25, 0.5, 0.25]], 2)
        ['[{"label":"b","score":0.5},{"label":"a","score":0.25}]']
    """
    opened = _opened(labels)
    rows = []
    for row in scores:
        columns = sorted(range(len(row)), key=row.__getitem__, reverse=True)[:top_k]
        # Written together by pydantic: Python's own way of writing a number is slow.
        numbers = to_json([row[column] for column in columns])[1:-1].decode().split(",")
        parts = [f"{opened[column]}{number}}}" for column, number in zip(columns, numbers, strict=True)]
        rows.append(f"[{','.join(parts)}]")
    return rows


@lru_cache(maxsize=10_000)
def _opened(labels: tuple[str, ...]) -> tuple[str, ...]:
    """What stands before the score of each label."""
    return tuple(f'{{"label":{json.dumps(label, ensure_ascii=False)},"score":' for label in labels)


def transformed(answer: Classified, function: Function | None) -> Sequence[Sequence[float]]:
    """The scores that Hugging Face's `function_to_apply` asks for, probabilities by default; a row for each text.

    All of them come from the calibrated logits: the temperature is part of the classifier. They have the digits of
    float32.
    """
    if function == "sigmoid":
        rows: list[list[float]] = (1 / (1 + np.exp(-answer.logits.astype(np.float64)))).astype(np.float32).tolist()
    elif function == "none":
        rows = answer.logits.tolist()
    elif answer.logits.size <= _FEW:
        return [_softmax(row) for row in answer.logits.tolist()]
    else:
        rows = answer.probabilities.tolist()
    return rows


def _softmax(logits: list[float]) -> array[float]:
    """`Classified.probabilities` of one row: of few numbers, numpy's calls cost several times what they compute."""
    greatest = max(logits)
    powers = [exp(logit - greatest) for logit in logits]
    total = fsum(powers)
    return array("f", [power / total for power in powers])
