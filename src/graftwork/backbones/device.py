"""Which device and which dtype a backbone runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graftwork.errors import Problem, SettingsInvalid
from graftwork.registry.manifest import DTypeName

if TYPE_CHECKING:
    import torch

DTYPE_NAMES: tuple[DTypeName, ...] = ("float32", "bfloat16", "float16")


def choose_device(requested: str = "auto") -> torch.device:
    """The device to run on: what was asked for, or CUDA, or the CPU.

    Raises:
        SettingsInvalid: if no such device exists here.
    """
    import torch

    if requested == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(requested)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingsInvalid(
            f"the device {requested!r} cannot be used here",
            problems=[Problem("device", str(error).splitlines()[0])],
            remedy="Use auto, cpu, or a device that torch lists on this machine.",
        ) from error
    return device


def choose_dtype(device: torch.device, requested: str = "auto") -> torch.dtype:
    """The dtype of the frozen weights: what was asked for, or what the hardware is fast at.

    `auto` is bfloat16 on CUDA devices that have it and on CPUs with AMX or AVX512-BF16, float32 everywhere else:
    without those instructions bfloat16 is emulated and several times slower than float32.

    Raises:
        SettingsInvalid: if the name is none of auto, float32, bfloat16, float16.
    """
    import torch

    if requested == "auto":
        return torch.bfloat16 if _fast_bfloat16(device) else torch.float32
    if requested not in DTYPE_NAMES:
        raise SettingsInvalid(
            f"{requested!r} is not a dtype a backbone can have",
            remedy=f"Use auto, {', '.join(DTYPE_NAMES)}.",
        )
    dtype = getattr(torch, requested)
    assert isinstance(dtype, torch.dtype)
    return dtype


def dtype_name(dtype: torch.dtype) -> DTypeName:
    """The name of a dtype as manifests spell it.

    Example:
        >>> import torch
        >>> dtype_name(torch.bfloat16)
        'bfloat16'
    """
    name = str(dtype).removeprefix("torch.")
    for known in DTYPE_NAMES:
        if name == known:
            return known
    raise SettingsInvalid(f"{name!r} is not a dtype a backbone can have", remedy=f"Use {', '.join(DTYPE_NAMES)}.")


def _fast_bfloat16(device: torch.device) -> bool:
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    # Asked of the CPU itself and not of /proc/cpuinfo, which only Linux has.
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))
