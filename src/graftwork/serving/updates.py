"""What rows' own adapters add to the base's linear modules, and running the base's modules so that they add it.

The base's weights are never touched: an update is added to what a module gives. Each row of a batch picks the slot of
its adapter in the tables of `stacked`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from graftwork.serving.delta import Place

# What a product of its own costs for an adapter, counted in numbers that are copied; measured in
# docs/decisions/0043-rows-or-segments.md.
_SEGMENT_COST = 100_000
# From this share of adapted rows on, adding zeros to the others is cheaper than picking the adapted ones out.
_WHOLE_BATCH_SHARE = 0.5

# Each slot but 0 that rows have, and which rows they are: int64.
Segments = Sequence[tuple[int, Tensor]]


@dataclass(frozen=True, slots=True)
class Application:
    """What one module adds for one rank bucket.

    Attributes:
        a: `[slots, in, rank]`.
        b: `[slots, rank, out]`.
        slots: int64 `[rows]`, the slot of each row of the batch; 0 for rows that nothing is added to.
        segments: the same by slot, from `segments_of`.
    """

    a: Tensor
    b: Tensor
    slots: Tensor
    segments: Segments

    def add(self, inputs: Tensor, output: Tensor) -> None:
        """Add to `output [rows, tokens, out]` the update of `inputs [rows, tokens, in]`, in place."""
        if self._segments_are_cheaper(inputs.shape[1]):
            self.add_by_segment(inputs, output)
        else:
            self.add_by_row(inputs, output)

    def add_by_row(self, inputs: Tensor, output: Tensor) -> None:
        """The same by a batched product: every row with a copy of its slot's tables."""
        rows = self.slots.nonzero().squeeze(1)
        if len(rows) >= _WHOLE_BATCH_SHARE * len(self.slots):
            output.baddbmm_(torch.bmm(inputs, self.a[self.slots]), self.b[self.slots])
            return
        slots = self.slots[rows]
        output.index_add_(0, rows, torch.bmm(torch.bmm(inputs[rows], self.a[slots]), self.b[slots]))

    def add_by_segment(self, inputs: Tensor, output: Tensor) -> None:
        """The same by a product for each adapter: all its rows with its tables where they are."""
        for slot, rows in self.segments:
            if len(rows) == len(output):
                output += (inputs @ self.a[slot]) @ self.b[slot]
            else:
                output.index_add_(0, rows, (inputs[rows] @ self.a[slot]) @ self.b[slot])

    def _segments_are_cheaper(self, tokens: int) -> bool:
        """Whether copying tables for every row costs more than copying rows for every adapter."""
        width = self.a.shape[1] + self.b.shape[2]
        rows = sum(len(rows) for _, rows in self.segments)
        whole = len(self.segments) == 1 and rows == len(self.slots)
        by_segment = len(self.segments) * _SEGMENT_COST + (0 if whole else rows * tokens * width)
        return by_segment < rows * width * self.a.shape[2]


def segments_of(slots: Tensor) -> Segments:
    """Sort the rows of a batch by their slots `[rows]`.

    Example:
        >>> [(slot, rows.tolist()) for slot, rows in segments_of(torch.tensor([7, 0, 3, 7]))]
        [(3, [2]), (7, [0, 3])]
    """
    members: dict[int, list[int]] = {}
    for row, slot in enumerate(slots.tolist()):
        if slot:
            members.setdefault(slot, []).append(row)
    return [(slot, torch.tensor(rows, device=slots.device)) for slot, rows in sorted(members.items())]


# By the module's name; several applications when its adapters are in several rank buckets.
Plan = Mapping[str, Sequence[Application]]


class Updates:
    """Lets the modules of a backbone add what a plan says; for one thread.

    Args:
        places: the modules that can be adapted, from `adaptable`; they are given forward hooks when first needed.
    """

    def __init__(self, places: Mapping[str, Place]) -> None:
        self._places = places
        self._hooks: dict[str, RemovableHandle] = {}
        self._plan: Plan = {}
        self._missed: set[str] = set()

    @contextmanager
    def applied(self, plan: Plan) -> Iterator[None]:
        """Let the modules add what the plan says while the block runs.

        Raises:
            RuntimeError: at the end, if a module with an update was never run, so that its update is missing.
        """
        for name in plan.keys() - self._hooks.keys():
            self._hooks[name] = self._places[name].module.register_forward_hook(self._hook(name))
        self._plan = plan
        self._missed = set(plan)
        try:
            yield
        finally:
            self._plan = {}
        if self._missed:
            raise RuntimeError(f"the model's forward did not run {', '.join(sorted(self._missed))}")

    def close(self) -> None:
        """Leave the modules as they were found."""
        for hook in self._hooks.values():
            hook.remove()
        self._hooks.clear()

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def add(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            for application in self._plan.get(name, ()):
                application.add(args[0], output)
            self._missed.discard(name)

        return add
