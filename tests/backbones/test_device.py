"""Devices and dtypes."""

from __future__ import annotations

import pytest
import torch

from graftwork.backbones.device import choose_device, choose_dtype, dtype_name
from graftwork.errors import SettingsInvalid

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ({"avx512_f": True, "amx_bf16": False}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_auto_takes_what_the_hardware_is_fast_at(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert choose_dtype(CPU) == expected
    assert choose_dtype(CPU, "float32") == torch.float32


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_dtype_can_be_forced(name: str) -> None:
    dtype = choose_dtype(CPU, name)
    assert dtype_name(dtype) == name


def test_unknown_dtypes_and_devices_are_told() -> None:
    with pytest.raises(SettingsInvalid, match="'int8' is not a dtype"):
        choose_dtype(CPU, "int8")
    with pytest.raises(SettingsInvalid, match="'int64' is not a dtype"):
        dtype_name(torch.int64)
    for device in ("warp", "cuda:99"):
        with pytest.raises(SettingsInvalid, match=f"the device '{device}' cannot be used"):
            choose_device(device)
    assert choose_device("cpu") == CPU


def test_auto_on_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    assert choose_dtype(torch.device("cuda")) == torch.bfloat16
    assert choose_dtype(torch.device("mps")) == torch.float32
