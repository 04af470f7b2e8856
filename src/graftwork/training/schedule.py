"""The learning rate over a run."""

from __future__ import annotations

import math
from typing import Literal

Shape = Literal["cosine", "linear", "constant"]


def rate_factor(step: int, total: int, *, warmup_share: float, shape: Shape) -> float:
    """Factor on the highest rate at an optimizer step: a linear warm-up, then a fall to nought or none.

    A function of the step alone, so that a run that goes on in the middle needs no other state of it.

    Args:
        step: optimizer steps that were done before.
        total: optimizer steps of the whole run.
        warmup_share: share of them that warm up, at least one.
        shape: how it falls.

    Example:
        >>> [round(rate_factor(step, 5, warmup_share=0.2, shape="linear"), 2) for step in range(5)]
        [1.0, 1.0, 0.75, 0.5, 0.25]
    """
    warmup = max(1, round(total * warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    if shape == "constant":
        return 1.0
    done = (step - warmup) / max(1, total - warmup)
    return 1.0 - done if shape == "linear" else 0.5 * (1 + math.cos(math.pi * done))
