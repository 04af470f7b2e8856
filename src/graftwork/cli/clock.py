"""When this process began."""

from __future__ import annotations

import time


def process_start() -> float:
    """The moment as `time.perf_counter` counts, which itself begins anywhere; Python's own start is part of it."""
    import psutil

    return time.perf_counter() - (time.time() - psutil.Process().create_time())
