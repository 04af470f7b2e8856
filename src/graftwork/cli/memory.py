"""Memory of this process."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path


def resident_bytes() -> int:
    """What the process has now, freed memory given back where the C library can."""
    import psutil

    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int | None:
    """The most it has had at once; None where the system does not tell."""
    try:
        # Not by getrusage: it counts what the process was before it became this program.
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)
