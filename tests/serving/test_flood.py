"""Bar 7 on a machine that never jitters: what the choice of batches alone makes of a flood, by a clock of its own."""

from __future__ import annotations

import random

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


def simulate(flood: float, seconds: float) -> tuple[list[float], float]:
    """Latencies of a tenant that sends a hundredth of the flood, and all texts answered a second."""
    chance = random.Random(7)
    clock = Clock(0.0)
    queue = scheduler(batch_tokens=1024, batch_rows=64, queue_texts=4096, quantum=128, batch_seconds=0.25, clock=clock)
    due = {"flood": 0.0, "quiet": 0.5}
    rates = {"flood": flood, "quiet": flood / 100}
    sent: dict[Pending, float] = {}
    latencies: list[float] = []
    answered = 0
    while clock.now < seconds:
        while min(due.values()) <= clock.now:
            tenant = min(due, key=lambda each: due[each])
            try:
                sent[request(queue, tenant, lengths=(LENGTH,))] = due[tenant]
            except QueueFull:
                assert tenant == "flood"
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


def test_a_quiet_tenant_waits_one_batch_and_the_flood_pays_a_twentieth() -> None:
    latencies, throughput = simulate(1.25 * CAPACITY, seconds=120)
    assert len(latencies) > 400
    assert latencies[int(0.99 * len(latencies))] <= ALONE + ONE_BATCH
    assert throughput >= 0.95 * CAPACITY


def test_more_of_them_than_the_time_for_promptness_still_cost_a_twentieth_and_wait_two_batches() -> None:
    latencies, throughput = simulate(4 * CAPACITY, seconds=60)
    assert latencies[-1] <= 2 * ONE_BATCH + FIXED
    assert throughput >= 0.95 * CAPACITY
