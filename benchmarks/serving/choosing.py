"""What the scheduler itself costs a request in processor time: a place, its share of choosing batches, its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import count

from benchmarks.serving.report import Table
from benchmarks.serving.setting import Setting
from benchmarks.serving.timing import Spread
from graftwork.registry.manifest import Pooling
from graftwork.serving.request import Pending, Row
from graftwork.serving.scheduler import Scheduler

BUSY = (1, 32, 1_000)
WAITING = (4, 64)
_REQUESTS = 2_000


def run(setting: Setting) -> Iterator[Table]:
    """A table by tenants that are busy and requests of each that wait, all of one row of 25 tokens."""
    table = Table(
        "scheduling alone, one thread, one row of 25 tokens a request", ["processor us a request", "middle half"]
    )
    for waiting in WAITING:
        for tenants in BUSY:
            spread = Spread.of([_microseconds(tenants, waiting) for _ in range(setting.rounds // 3)])
            name = f"{tenants:,} busy tenants, {waiting} requests of each waiting"
            table.lines[name] = (spread.median, f"{spread.low:.1f} to {spread.high:.1f}")
    yield table


def _microseconds(tenants: int, waiting: int) -> float:
    queue = Scheduler(batch_tokens=1024, batch_rows=64, queue_texts=4096, quantum=128)
    row = Row(b"text", (1,) * 25, None, Pooling(mode="mean"), head=False)
    numbers = count()

    def ask() -> None:
        pending = Pending(str(next(numbers) % tenants), "base", None, ["text"], head=False, deadline=None)
        queue.admit(pending)
        queue.enqueue(pending, [row])

    for _ in range(tenants * waiting):
        ask()
    done = 0
    start = time.process_time()
    while done < _REQUESTS:
        tasks = queue.take(0)
        queue.computed(tasks, [25] * len(tasks), 0.05)
        for task in tasks:
            task.pending.future.cancel()
            ask()
        done += len(tasks)
    return (time.process_time() - start) / done * 1e6
