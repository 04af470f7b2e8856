"""A scheduler with a clock of its own, requests of so many tokens, and an engine that answers at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from graftwork.registry.manifest import Pooling
from graftwork.serving.batch import Task
from graftwork.serving.request import Pending, Row
from graftwork.serving.scheduler import Scheduler

POOLING = Pooling(mode="mean")


@dataclass
class Clock:
    """A time that passes only when it is told to."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def scheduler(**changes: Any) -> Scheduler:
    bounds: dict[str, Any] = {"batch_tokens": 256, "batch_rows": 16, "queue_texts": 100, "quantum": 32}
    return Scheduler(**bounds | changes)


def request(
    queue: Scheduler,
    tenant: str = "acme",
    lengths: tuple[int, ...] = (8,),
    *,
    base: str = "base",
    deadline: float | None = None,
) -> Pending:
    pending = Pending(tenant, base, None, ["text"] * len(lengths), head=False, deadline=deadline)
    queue.admit(pending)
    queue.enqueue(pending, [Row(b"text", (1,) * length, None, POOLING, head=False) for length in lengths])
    return pending


def padded(tasks: list[Task]) -> int:
    """Tokens to which each row of a batch is padded."""
    return max(len(task.row.ids) for task in tasks)


@dataclass
class Machine:
    """Computes batches in a time that is exactly linear in their padded tokens, and counts who got how many."""

    queue: Scheduler
    fixed: float = 0.005
    per_token: float = 0.00005
    seconds: float = 0.0
    tokens: Counter[str] = field(default_factory=Counter)

    def step(self) -> list[Task]:
        """Take a batch, compute and answer it."""
        tasks = self.queue.take(0)
        if tasks:
            longest = padded(tasks)
            for task in tasks:
                self.tokens[task.pending.tenant] += longest
            seconds = self.fixed + self.per_token * longest * len(tasks)
            self.seconds += seconds
            self.queue.computed(tasks, [longest] * len(tasks), seconds)
            for task in tasks:
                if not task.pending.waiting:
                    task.pending.future.cancel()
        return tasks
