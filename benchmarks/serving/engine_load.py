"""Requests of tenants at given rates, sent on time whether earlier ones are answered or not."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from benchmarks.serving.neighbours import Neighbours
from graftwork.errors import QueueFull

Ask = Callable[[str, str], Future[Any]]


@dataclass(frozen=True)
class Load:
    """What a tenant sends.

    Attributes:
        rate: requests a second, at random times.
        texts: one a request, in order; there must be enough.
    """

    rate: float
    texts: Sequence[str]


@dataclass
class Outcome:
    """What came of it, by tenant.

    Attributes:
        seconds: latencies of the requests that were sent after the warm-up, from the time they were due.
        answered: texts answered between the warm-up and the end.
        refused: requests refused because a queue was full.
        late: seconds that the sender was behind at most.
        others: cores that other processes kept busy meanwhile.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    answered: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    late: float = 0.0
    others: float = 0.0


def send(ask: Ask, loads: Mapping[str, Load], *, warm: float, seconds: float, seed: int = 0) -> Outcome:
    """Send for `warm` and then `seconds`, from this thread alone, and give up on what is not answered then.

    Args:
        ask: sends a text of a tenant.
        loads: by tenant.
        warm: seconds at the beginning that are not counted.
        seconds: seconds that are counted.
        seed: of the times.
    """
    due = _times(loads, warm + seconds, seed)
    outcome = Outcome(seconds={tenant: [] for tenant in loads})
    left = {tenant: iter(load.texts) for tenant, load in loads.items()}
    futures: set[Future[Any]] = set()
    neighbours = Neighbours()
    begin = time.perf_counter()
    first, last = begin + warm, begin + warm + seconds

    def answered(tenant: str, at: float, future: Future[Any]) -> None:
        now = time.perf_counter()
        futures.discard(future)
        if future.cancelled():
            return
        future.result()
        if first <= now < last:
            outcome.answered[tenant] += 1
        if at >= first:
            outcome.seconds[tenant].append(now - at)

    for offset, tenant in due:
        at = begin + offset
        wait = at - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        elif at >= first:
            outcome.late = max(outcome.late, -wait)
        try:
            future = ask(tenant, next(left[tenant]))
        except QueueFull:
            outcome.refused[tenant] += 1
        else:
            futures.add(future)
            future.add_done_callback(partial(answered, tenant, at))
    outcome.others = neighbours.cores()
    for future in list(futures):
        future.cancel()
    return outcome


def _times(loads: Mapping[str, Load], seconds: float, seed: int) -> list[tuple[float, str]]:
    random = np.random.default_rng(seed)
    times: list[tuple[float, str]] = []
    for tenant, load in loads.items():
        gaps = random.exponential(1 / load.rate, size=int(load.rate * seconds * 1.5) + 50)
        times += [(float(time), tenant) for time in np.cumsum(gaps) if time < seconds]
    return sorted(times)
