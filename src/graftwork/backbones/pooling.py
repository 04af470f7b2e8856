"""How token vectors become one vector a text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from graftwork.registry.manifest import Pooling


def pool(hidden: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """Pool all rows one way.

    Args:
        hidden: last hidden state `[rows, tokens, width]`, in any dtype.
        attention_mask: `[rows, tokens]`, 1 for a token and 0 for padding on the right; no row all padding.
        pooling: the way.

    Returns:
        float32 `[rows, width]`.
    """
    if pooling.mode == "cls":
        pooled = hidden[:, 0].float()
    elif pooling.mode == "last":
        last = attention_mask.sum(dim=1) - 1
        pooled = hidden[torch.arange(hidden.shape[0], device=hidden.device), last].float()
    else:
        weights = attention_mask.unsqueeze(-1).float()
        # Not a product with the mask: padding may hold anything, and infinity times nought is not a number.
        pooled = hidden.float().masked_fill(weights == 0, 0.0).sum(dim=1) / weights.sum(dim=1)
    return nn.functional.normalize(pooled, dim=-1) if pooling.normalize else pooled
