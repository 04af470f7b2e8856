"""Showing that a compiled network computes what the eager one does, before it answers anybody."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Rows and tokens of what is compared: single rows and tokens, odd and even sizes, a size of the network itself.
_SHAPES = ((1, 1), (1, 7), (2, 16), (3, 17), (5, 32), (2, 64))
# Relative distance that rounding explains; anything wrong is far above.
_TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2}
_SLOTS = 3


@dataclass(frozen=True, slots=True)
class Case:
    """Something to compute.

    Attributes:
        input_ids: int64 `[rows, tokens]`.
        attention_mask: int64 `[rows, tokens]`, rows of different lengths.
    """

    input_ids: Tensor
    attention_mask: Tensor


def make_cases(vocabulary: int, max_length: int) -> list[Case]:
    """Token ids of different shapes, the same ones each time.

    Args:
        vocabulary: number of token ids.
        max_length: tokens a row may have.
    """
    generator = torch.Generator().manual_seed(0)
    cases = []
    for rows, columns in _SHAPES:
        tokens = min(columns, max_length)
        ids = torch.randint(vocabulary, (rows, tokens), generator=generator)
        lengths = [max(1, tokens - 2 * row) for row in range(rows)]
        mask = (torch.arange(tokens) < torch.tensor(lengths).unsqueeze(1)).long()
        cases.append(Case(ids, mask))
    return cases


def make_tables(model: nn.Module, sites: Sequence[tuple[str, int]], dtype: torch.dtype) -> tuple[list[Tensor], ...]:
    """Tables A and B of updates that are as large as the modules' own output; slot 0 is zeros."""
    generator = torch.Generator().manual_seed(1)
    tables: tuple[list[Tensor], list[Tensor]] = ([], [])
    for name, rank in sites:
        inputs, outputs = widths(model.get_submodule(name))
        for table, shape in zip(tables, ((inputs, rank), (rank, outputs)), strict=True):
            values = torch.randn(_SLOTS, *shape, generator=generator) * shape[0] ** -0.5
            values[0] = 0
            table.append(values.to(dtype))
    return tables


def make_slots(sites: int, rows: int) -> Tensor:
    """Slots of rows, int64 `[sites, rows]`: none and several, differing from site to site."""
    return (torch.arange(sites).unsqueeze(1) + torch.arange(rows)) % _SLOTS


def widths(module: nn.Module) -> tuple[int, int]:
    """Width of what a linear module takes and gives; transformers' Conv1D keeps its weight the other way round."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    outputs, inputs = weight.shape if isinstance(module, nn.Linear) else weight.shape[::-1]
    return inputs, outputs


def differs(found: Tensor, expected: Tensor, attention_mask: Tensor) -> bool:
    """Whether two hidden states `[rows, tokens, width]` differ by more than rounding, padding aside."""
    real = attention_mask.bool()
    found, meant = found[real].float(), expected[real].float()
    distance = (found - meant).norm() / meant.norm().clamp_min(1e-6)
    return not bool(distance <= _TOLERANCES[expected.dtype])


def all_agree(cases: Sequence[Case], found: Callable[[Case], Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether `found` gives what is expected, for every case."""
    return not any(
        differs(found(case), meant, case.attention_mask) for case, meant in zip(cases, expected, strict=True)
    )
