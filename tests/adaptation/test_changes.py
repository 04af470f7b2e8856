from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graftwork.adaptation.changes import Change, Encoding, change_of, pack_signs, unpack_signs

ENCODINGS: tuple[Encoding, ...] = ("one-bit", "float16", "lossless")


def pair(*shape: int, seed: int = 0, size: float = 1e-3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator)
    return base, base + torch.randn(shape, generator=generator) * size


def encoded(base: Tensor, now: Tensor, encoding: Encoding) -> Change:
    change = change_of(base, now, encoding)
    assert change is not None
    return change


@settings(max_examples=40)
@given(rows=st.integers(1, 5), columns=st.integers(1, 40), seed=st.integers(0, 2**16))
def test_signs_survive_packing_as_numpy_packs_them(rows: int, columns: int, seed: int) -> None:
    values = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    packed = pack_signs(values)
    np.testing.assert_array_equal(packed.numpy(), np.packbits(values.numpy() > 0, axis=1, bitorder="little"))
    assert torch.equal(unpack_signs(packed, columns), torch.where(values > 0, 1.0, -1.0))


@pytest.mark.parametrize("shape", [(6, 19), (1, 8), (4, 3, 5)])
def test_one_bit_is_the_sign_times_the_mean_size_of_its_row(shape: tuple[int, ...]) -> None:
    base, now = pair(*shape)
    difference = now - base
    size = difference.abs().flatten(1).mean(dim=1).view(-1, *[1] * (len(shape) - 1))
    naive = base + torch.where(difference > 0, size, -size)
    change = encoded(base, now, "one-bit")
    torch.testing.assert_close(change.on(base), naive, rtol=0, atol=1e-7)
    columns = base[0].numel()
    assert change.nbytes == shape[0] * (-(-columns // 8) + 4)
    # No other size of a row's steps comes nearer to what was trained.
    errors = [((change.scaled(torch.full((shape[0],), f)).on(base) - now) ** 2).sum() for f in (0.9, 1.0, 1.1)]
    assert errors[1] == min(errors)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_of_a_table_only_the_rows_that_differ_are_kept(encoding: Encoding) -> None:
    base, now = pair(50, 24)
    touched = torch.tensor([3, 17, 18, 49])
    untouched = torch.ones(50, dtype=torch.bool).index_fill(0, touched, False)
    now[untouched] = base[untouched]
    change = encoded(base, now, encoding)
    assert change.parts["rows"].tolist() == touched.tolist()
    assert change.parts["rows"].dtype == torch.int32
    found = change.on(base)
    assert torch.equal(found[untouched], base[untouched])
    alone = encoded(base[touched], now[touched], encoding)
    assert torch.equal(found[touched], alone.on(base[touched]))
    picked = torch.tensor([2, 0, 2])
    assert torch.equal(change.on_rows(base[touched[picked]], picked), found[touched[picked]])


@pytest.mark.parametrize("shape", [(40,), (7, 9)])
def test_lossless_gives_every_bit_back_and_float16_the_rounded_difference(shape: tuple[int, ...]) -> None:
    base, now = pair(*shape)
    assert torch.equal(encoded(base, now, "lossless").on(base), now)
    assert torch.equal(encoded(base, now, "float16").on(base), base + (now - base).half().float())


def test_vectors_are_kept_as_differences_also_at_one_bit() -> None:
    base, now = pair(40)
    assert torch.equal(encoded(base, now, "one-bit").on(base), base + (now - base).half().float())


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_did_not_change_is_not_kept(encoding: Encoding) -> None:
    base, _ = pair(5, 8)
    assert change_of(base, base.clone(), encoding) is None
    assert change_of(base[0], base[0].clone(), encoding) is None


def test_the_base_may_be_in_half_precision() -> None:
    base, _ = pair(4, 8)
    low = base.bfloat16()
    now = low.float() + 0.01
    change = encoded(low, now, "one-bit")
    assert change.on(low).dtype == torch.float32
    torch.testing.assert_close(change.on(low), now, rtol=0, atol=1e-6)


def test_gradients_reach_the_scales() -> None:
    base, now = pair(6, 10)
    now[2] = base[2]
    change = encoded(base, now, "one-bit")
    factor = torch.ones(5, requires_grad=True)
    change.scaled(factor).on(base).sum().backward()
    assert factor.grad is not None
    signs = unpack_signs(change.parts["sign"], 10)
    torch.testing.assert_close(factor.grad, change.parts["scale"] * signs.sum(dim=1))
