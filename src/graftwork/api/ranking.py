"""Scores as the labels a client reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from graftwork.serving.request import Classified


def ranked(labels: Sequence[str], scores: NDArray[np.float32], top_k: int | None) -> list[list[dict[str, Any]]]:
    """Labels by falling score, for each row; equal scores stay in the order of `labels`.

    Args:
        labels: names of the columns.
        scores: [rows, classes].
        top_k: how many to keep; all if None.

    Example:
        >>> ranked(("a", "b", "c"), np.array([[0.25, 0.5, 0.25]], np.float32), 2)
        [[{'label': 'b', 'score': 0.5}, {'label': 'a', 'score': 0.25}]]
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    best = np.take_along_axis(scores, order, axis=1).tolist()
    return [
        [{"label": labels[column], "score": score} for column, score in zip(columns, row, strict=True)]
        for columns, row in zip(order.tolist(), best, strict=True)
    ]


def transformed(answer: Classified, function: Literal["softmax", "sigmoid", "none"] | None) -> NDArray[np.float32]:
    """The scores `[rows, classes]` that Hugging Face's `function_to_apply` asks for, probabilities by default.

    All of them come from the calibrated logits: the temperature is part of the classifier.
    """
    if function == "sigmoid":
        return (1 / (1 + np.exp(-answer.logits.astype(np.float64)))).astype(np.float32)
    return answer.logits if function == "none" else answer.probabilities
