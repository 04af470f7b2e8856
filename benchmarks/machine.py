"""What a benchmark ran on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")


def describe() -> str:
    """Processor, its relevant instructions, cores, memory and versions, in one paragraph."""
    facts = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":", 1)[1].strip() for line in facts.splitlines() if line.startswith("model name")]
    flags = next((line.split() for line in facts.splitlines() if line.startswith("flags")), [])
    has = ", ".join(flag for flag in _FLAGS if flag in flags) or "no vector instructions known to us"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    return (
        f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores ({has}), {memory:.0f} GiB, "
        f"Python {platform.python_version()}, {packages}"
    )
