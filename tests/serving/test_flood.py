"""Bar 7 on a machine that never jitters: what the choice of batches alone makes of a flood, by a clock of its own."""

from __future__ import annotations

import random

import pytest

from graftwork.errors import QueueFull
from graftwork.serving.request import Pending
from tests.serving.queues import Clock, padded, request, scheduler

# As measured with MiniLM-L6 and LoRA on two cores (docs/decisions/0044-virtual-token-counters.md).
FIXED, PER_TOKEN = 0.012, 0.000113
LENGTH = 25
FULL = 1024 // LENGTH
ONE_BATCH = FIXED + PER_TOKEN * LENGTH * FULL
ALONE = FIXED + PER_TOKEN * LENGTH
CAPACITY = FULL / ONE_BATCH


def simulate(seconds: float, *, quiet: float, flood: float | None = None) -> tuple[list[float], float]:
    """Latencies of a tenant that sends so many texts a second, in order, and all texts answered a second."""
    chance = random.Random(7)
    clock = Clock(0.0)
    queue = scheduler(batch_tokens=1024, batch_rows=64, queue_texts=4096, quantum=128, batch_seconds=0.25, clock=clock)
    rates = {"quiet": quiet} | ({"flood": flood} if flood is not None else {})
    due = {tenant: 0.5 if tenant == "quiet" else 0.0 for tenant in rates}
    sent: dict[Pending, float] = {}
    latencies: list[float] = []
    answered = 0
    while clock.now < seconds:
        while min(due.values()) <= clock.now:
            tenant = min(due, key=lambda each: due[each])
            clock.now, now = due[tenant], clock.now
            try:
                sent[request(queue, tenant, lengths=(LENGTH,))] = due[tenant]
            except QueueFull:
                assert tenant == "flood"
            clock.now = now
            due[tenant] += chance.expovariate(rates[tenant])
        tasks = queue.take(0)
        if not tasks:
            clock.now = min(due.values())
            continue
        longest = padded(tasks)
        spent = FIXED + PER_TOKEN * longest * len(tasks)
        clock.now += spent
        queue.computed(tasks, [longest] * len(tasks), spent)
        for task in tasks:
            latency = clock.now - sent.pop(task.pending)
            task.pending.future.cancel()
            answered += 1
            if task.pending.tenant == "quiet":
                latencies.append(latency)
    return sorted(latencies), answered / clock.now


def at_99_percent(latencies: list[float]) -> float:
    return latencies[int(0.99 * len(latencies))]


@pytest.mark.parametrize("overload", [1.25, 3.0])
def test_a_quiet_tenant_is_answered_within_a_batch_of_its_coming_and_the_flood_pays_a_twentieth_at_most(
    overload: float,
) -> None:
    flood = overload * CAPACITY
    alone, _ = simulate(200, quiet=flood / 100)
    latencies, throughput = simulate(120, quiet=flood / 100, flood=flood)
    assert len(latencies) > 400
    assert at_99_percent(latencies) <= at_99_percent(alone) + ONE_BATCH
    assert latencies[-1] <= 2 * ONE_BATCH + FIXED
    assert throughput >= 0.95 * CAPACITY


def test_when_the_time_for_promptness_is_used_up_they_wait_two_batches_and_the_flood_pays_no_more() -> None:
    flood = 20 * CAPACITY
    latencies, throughput = simulate(12, quiet=flood / 100, flood=flood)
    assert latencies[-1] <= 2 * ONE_BATCH + FIXED
    assert throughput >= 0.95 * CAPACITY
