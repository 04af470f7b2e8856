"""Frozen linear layers in few bits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from graftwork.backbones.backbone import Backbone
from graftwork.backbones.quantized import QuantizedLinear, bytes_of, numbers_of, packed_bytes
from graftwork.errors import ModelUnsupported, SettingsInvalid
from graftwork.registry.manifest import BaseBits
from tests.backbones.conftest import open_backbone

Backbones = Callable[..., Backbone]
Saved = Callable[[str], Path]
BITS: tuple[BaseBits, ...] = ("int8", "nf4")
# The widest gap between neighbours in a table whose ends are -1 and 1, halved: no value is further from its nearest.
WIDEST = {"int8": 0.5 * (1 - 0.9859375), "nf4": 0.5 * (1 - 0.6961928)}
BLOCK = {"int8": 256, "nf4": 64}


@pytest.mark.parametrize("bits", BITS)
def test_no_weight_is_further_off_than_the_table_allows(bits: BaseBits) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 40)
    kept = QuantizedLinear(linear, bits).weight
    scales = linear.weight.detach().reshape(-1, BLOCK[bits]).abs().amax(dim=1, keepdim=True)
    off = (kept - linear.weight.detach()).reshape(-1, BLOCK[bits]).abs()
    # bitsandbytes looks the nearest up by 16 bits of a value.
    assert bool((off <= scales * (WIDEST[bits] + 2**-16) + 1e-7).all())
    assert float(off.max()) > 0


@pytest.mark.parametrize("bits", BITS)
def test_products_and_gradients_are_those_of_the_weight_read_back(bits: BaseBits) -> None:
    layer = QuantizedLinear(nn.Linear(64, 32).requires_grad_(False), bits)
    values = torch.randn(3, 5, 64, requires_grad=True)
    twin = values.detach().clone().requires_grad_()
    ours, theirs = layer(values), nn.functional.linear(twin, layer.weight, layer.bias)
    (ours**2).sum().backward()
    (theirs**2).sum().backward()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(values.grad, twin.grad)


@pytest.mark.parametrize("bits", BITS)
def test_a_backbone_in_few_bits_is_near_the_one_in_float_and_smaller(saved: Saved, bits: BaseBits) -> None:
    whole, few = open_backbone(saved("bert")), open_backbone(saved("bert"), bits=bits)
    batch = whole.collate([[2, 9, 40, 41, 3], [2, 8, 3]])
    with torch.no_grad():
        exact, near = (b.pool(b.forward(batch), batch.attention_mask) for b in (whole, few))
    assert 0 < (exact - near).norm() / exact.norm() < {"int8": 0.05, "nf4": 0.5}[bits]
    assert few.bits == bits
    assert numbers_of(few.model) == numbers_of(whole.model)
    inside = [m for layer in whole.layers for m in layer.modules() if isinstance(m, nn.Linear)]
    saved_bytes = sum(4 * m.weight.numel() - packed_bytes(m.weight.numel(), bits) for m in inside)
    assert bytes_of(few.model) == bytes_of(whole.model) - saved_bytes


def test_a_base_without_plain_linear_layers_is_refused(saved: Saved) -> None:
    with pytest.raises(ModelUnsupported, match="kept as int8"):
        open_backbone(saved("gpt2"), bits="int8")


def test_the_remedy_says_how_to_install_what_is_missing(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(SettingsInvalid, match="bitsandbytes, which is not installed") as caught:
        open_backbone(saved("bert"), bits="nf4")
    assert "graftwork[quantized]" in str(caught.value.remedy)
