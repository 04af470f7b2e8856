"""Classification heads: those of a whole batch in one product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Above this many weights, copying the heads side by side costs more than it saves, and each is multiplied by itself.
_PACKED_WEIGHTS = 1 << 18


@dataclass(frozen=True, eq=False, slots=True)
class Head:
    """A linear classifier over pooled vectors.

    Attributes:
        weight: float32 `[classes, width]`.
        bias: float32 `[classes]`.
        temperature: the logits are divided by it.
    """

    weight: Tensor
    bias: Tensor
    temperature: float

    @property
    def nbytes(self) -> int:
        """Bytes of both tensors."""
        return self.weight.nbytes + self.bias.nbytes


def apply_heads(vectors: Tensor, heads: Sequence[Head]) -> list[Tensor]:
    """Logits of each row by its own head, divided by the head's temperature.

    Args:
        vectors: float32 `[rows, width]`.
        heads: the head of each row; class counts may differ.

    Returns:
        For each row, float32 `[classes of its head]`.
    """
    distinct = list({id(head): head for head in heads}.values())
    if sum(head.weight.numel() for head in distinct) > _PACKED_WEIGHTS and len(distinct) > 1:
        return _one_by_one(vectors, heads, distinct)
    weight = torch.cat([head.weight for head in distinct])
    bias = torch.cat([head.bias for head in distinct])
    packed = torch.addmm(bias, vectors, weight.T)
    places: dict[int, tuple[int, int]] = {}
    begin = 0
    for head in distinct:
        places[id(head)] = (begin, begin + len(head.bias))
        begin += len(head.bias)
    return [packed[row, places[id(head)][0] : places[id(head)][1]] / head.temperature for row, head in enumerate(heads)]


def _one_by_one(vectors: Tensor, heads: Sequence[Head], distinct: Sequence[Head]) -> list[Tensor]:
    rows: dict[int, list[int]] = {}
    for row, head in enumerate(heads):
        rows.setdefault(id(head), []).append(row)
    logits: dict[int, Tensor] = {}
    for head in distinct:
        mine = rows[id(head)]
        product = torch.addmm(head.bias, vectors[mine], head.weight.T) / head.temperature
        logits.update(zip(mine, product, strict=True))
    return [logits[row] for row in range(len(heads))]
