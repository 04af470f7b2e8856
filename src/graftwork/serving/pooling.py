"""Pooling of a mixed batch: each vector as its adapter's manifest says, not as the base says today."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from graftwork.registry.manifest import Pooling


def pool_rows(hidden: Tensor, lengths: Sequence[int], wanted: Sequence[tuple[int, Pooling]]) -> Tensor:
    """Pool rows, each in its own ways, all at once.

    Every way is a mean over some of a row's tokens: all of them, the first or the last. What padding holds is never
    read.

    Args:
        hidden: last hidden state `[rows, tokens, width]`, padding on the right.
        lengths: tokens of each row that are not padding, at least one.
        wanted: for each vector the row it is made of, and how.

    Returns:
        float32 `[wanted, width]`.
    """
    spans = [_span(lengths[row], pooling) for row, pooling in wanted]
    begins = np.array([row * hidden.shape[1] + begin for (row, _), (begin, _) in zip(wanted, spans, strict=True)])
    counts = np.array([count for _, count in spans])
    offsets = counts.cumsum() - counts
    tokens = np.repeat(begins - offsets, counts) + np.arange(counts.sum())
    vectors = nn.functional.embedding_bag(
        torch.from_numpy(tokens).to(hidden.device),
        hidden.flatten(0, 1).float(),
        torch.from_numpy(offsets).to(hidden.device),
        mode="mean",
    )
    normalized = torch.tensor([pooling.normalize for _, pooling in wanted], device=hidden.device)
    return torch.where(normalized.unsqueeze(1), nn.functional.normalize(vectors, dim=-1), vectors)


def _span(length: int, pooling: Pooling) -> tuple[int, int]:
    """The first token that is averaged, and how many are."""
    if pooling.mode == "cls":
        return 0, 1
    if pooling.mode == "last":
        return length - 1, 1
    return 0, length
