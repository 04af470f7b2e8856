"""Batches in shares of their rows against the whole batch at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import cast

import pytest
import torch
from torch import Tensor

from graftwork.serving.compiled.native import NativeError, NativeNetwork
from graftwork.serving.compiled.shares import Inputs, Shares

WIDTH = 4
WAIT = 30


class Adding:
    """Stands for a network: ids, activations and the slots' first table added up; notes the threads that ran it.

    Args:
        together: shares that must run at once.
        failing: the first id of a row that fails its share.
    """

    def __init__(self, together: int = 3, failing: int | None = None) -> None:
        self.shares: list[tuple[int, str, int]] = []
        self._together = threading.Barrier(together)
        self._failing = failing
        self._lock = threading.Lock()

    def run(self, inputs: Sequence[Tensor], result: Tensor) -> None:
        ids, mask, _, activations, slots, a, _ = inputs
        assert all(tensor.is_contiguous() for tensor in inputs)
        assert ids.shape == mask.shape
        with self._lock:
            self.shares.append((len(ids), threading.current_thread().name, torch.get_num_threads()))
        if self._failing is not None and self._failing in ids[:, 0].tolist():
            self._together.wait(WAIT)
            raise NativeError("failed")
        self._together.wait(WAIT)
        result.copy_(ids.unsqueeze(2) + activations + a[slots[0]][:, :1, :1])


def adding(rows: int, tokens: int) -> tuple[Inputs, Tensor]:
    """Inputs, and what `Adding` gives for all of them."""
    ids = torch.arange(rows).unsqueeze(1).repeat(1, tokens)
    activations = torch.randn(rows, tokens, WIDTH)
    slots = torch.arange(2 * rows).reshape(2, rows) % 3
    a, b = torch.randn(3, WIDTH, 2), torch.randn(3, 2, WIDTH)
    inputs = Inputs(ids, torch.ones_like(ids), [torch.zeros(1)], activations, slots, [a, b])
    return inputs, ids.unsqueeze(2) + activations + a[slots[0]][:, :1, :1]


@pytest.fixture
def shares() -> Iterator[Shares]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    shares = Shares()
    yield shares
    shares.close()
    torch.set_num_threads(before)


def run(shares: Shares, network: Adding, inputs: Inputs) -> Tensor:
    return shares.run(cast("NativeNetwork", network), inputs, WIDTH, torch.float32)


@pytest.mark.parametrize(
    ("rows", "tokens", "parts"),
    [
        (1, 25, [1]),
        (2, 25, [2]),  # so few tokens that a second processor is left to others
        (3, 25, [1, 1, 1]),
        (8, 25, [2, 3, 3]),
        (2, 100, [2]),  # fewer rows than processors: by a team
    ],
)
def test_shares_together_give_the_batch(shares: Shares, rows: int, tokens: int, parts: list[int]) -> None:
    inputs, expected = adding(rows, tokens)
    network = Adding(len(parts))
    assert torch.equal(run(shares, network, inputs), expected)
    assert sorted(count for count, _, _ in network.shares) == parts
    assert len({thread for _, thread, _ in network.shares}) == len(parts)
    assert {threads for _, _, threads in network.shares} == {3 if rows < 3 and tokens == 100 else 1}
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("failing", [0, 3, 8])
def test_a_share_that_fails_fails_the_batch_when_all_have_ended(shares: Shares, failing: int) -> None:
    inputs, expected = adding(9, 25)
    network = Adding(failing=failing)
    with pytest.raises(NativeError):
        run(shares, network, inputs)
    assert sum(count for count, _, _ in network.shares) == 9
    assert torch.equal(run(shares, Adding(), inputs), expected)


def test_variants_with_nothing_optional_have_shares_too() -> None:
    ids = torch.arange(6).reshape(3, 2)
    found = Inputs(ids, ids + 10, [torch.zeros(2)]).share(1, 3)
    assert [tensor.tolist() for tensor in found] == [[[2, 3], [4, 5]], [[12, 13], [14, 15]], [0.0, 0.0]]
