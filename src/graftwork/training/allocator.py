"""Giving freed memory back to the system at once, where the C library can be told to."""

from __future__ import annotations

import ctypes
import platform

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_BYTES = 256 * 1024


def return_freed_memory() -> bool:
    """Let every block from 256 KiB on be a mapping of its own, which is gone when it is freed; until the process ends.

    Otherwise glibc keeps freed activations in its heap, where new ones do not fit into the gaps, and a process takes
    twice the memory of its tensors. What it costs is told in docs/decisions/0057-plans.md.

    Returns:
        Whether the C library is one that can be told: glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _BYTES))
