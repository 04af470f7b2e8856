"""Scores as the labels a client reads, written as JSON."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

if TYPE_CHECKING:
    from graftwork.serving.request import Classified

Function = Literal["softmax", "sigmoid", "none"]


def ranked(labels: tuple[str, ...], scores: NDArray[np.float32], top_k: int | None) -> list[str]:
    """Labels by falling score, a JSON array for each row; equal scores stay in the order of `labels`.

    Written by hand: of a short answer, making Python objects of it costs more than all else that is done for it.

    Args:
        labels: names of the columns.
        scores: finite, [rows, classes].
        top_k: how many to keep; all if None.

    Example:
        >>> ranked(("a", "b", "c"), np.array([[0.25, 0.5, 0.25]], np.float32), 2)
        ['[{"label":"b","score":0.5},{"label":"a","score":0.25}]']
    """
    opened = _opened(labels)
    order = (-scores).argsort(axis=1, kind="stable")[:, :top_k].tolist()
    rows = []
    for columns, row in zip(order, scores.tolist(), strict=True):
        # Written together by pydantic: Python's own way of writing a number is slow.
        numbers = to_json([row[column] for column in columns])[1:-1].decode().split(",")
        parts = [f"{opened[column]}{number}}}" for column, number in zip(columns, numbers, strict=True)]
        rows.append(f"[{','.join(parts)}]")
    return rows


@lru_cache(maxsize=10_000)
def _opened(labels: tuple[str, ...]) -> tuple[str, ...]:
    """What stands before the score of each label."""
    return tuple(f'{{"label":{json.dumps(label, ensure_ascii=False)},"score":' for label in labels)


def transformed(answer: Classified, function: Function | None) -> NDArray[np.float32]:
    """The scores `[rows, classes]` that Hugging Face's `function_to_apply` asks for, probabilities by default.

    All of them come from the calibrated logits: the temperature is part of the classifier.
    """
    if function == "sigmoid":
        return (1 / (1 + np.exp(-answer.logits.astype(np.float64)))).astype(np.float32)
    return answer.logits if function == "none" else answer.probabilities
