"""Pooling of a mixed batch: each row as its adapter's manifest says, not as the base says today."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graftwork.backbones.pooling import pool

if TYPE_CHECKING:
    from graftwork.registry.manifest import Pooling


def pool_rows(hidden: Tensor, attention_mask: Tensor, poolings: Sequence[Pooling]) -> Tensor:
    """Pool each row its own way.

    Args:
        hidden: last hidden state `[rows, tokens, width]`.
        attention_mask: `[rows, tokens]`, 1 for a token and 0 for padding on the right; no row all padding.
        poolings: how each row is pooled.

    Returns:
        float32 `[rows, width]`.
    """
    if len(set(poolings)) == 1:
        return pool(hidden, attention_mask, poolings[0])
    vectors = hidden.new_empty((hidden.shape[0], hidden.shape[2]), dtype=torch.float32)
    for pooling in set(poolings):
        rows = [row for row, own in enumerate(poolings) if own == pooling]
        vectors[rows] = pool(hidden[rows], attention_mask[rows], pooling)
    return vectors
