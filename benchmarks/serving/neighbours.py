"""What other processes took of the machine while something was measured: figures of a busy machine say little."""

from __future__ import annotations

import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")


class Neighbours:
    """Counts from its making on."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._busy = _busy() - time.process_time()

    def cores(self) -> float:
        """Cores that other processes kept busy on average; not a number where the system does not tell."""
        return (_busy() - time.process_time() - self._busy) / (time.perf_counter() - self._start)


def _busy() -> float:
    """Seconds of processor time that all processes took since the machine started."""
    if not _STAT.exists():
        return float("nan")
    user, nice, system, _idle, _wait, interrupts, soft = map(int, _STAT.read_text().split()[1:8])
    return (user + nice + system + interrupts + soft) / os.sysconf("SC_CLK_TCK")
