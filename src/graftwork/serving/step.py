"""One step of the engine: a fair batch -> slots -> trunk, tail, heads -> answers; then what it cost."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from graftwork.errors import DeadlineExceeded, GraftworkError
from graftwork.serving.bases import Bases
from graftwork.serving.batch import Task
from graftwork.serving.keys import AdapterKey
from graftwork.serving.request import engine_error
from graftwork.serving.runner import Outcome, Runner
from graftwork.serving.scheduler import Scheduler
from graftwork.serving.stacked import Lease, StackedAdapters
from graftwork.serving.stats import Meter

# What a row costs whose vector was computed before: about the time of one padded token (0.03 to 0.05 ms on two cores).
_KNOWN_TOKENS = 1


class Stepper:
    """Computes batches; for the engine's thread alone.

    Args:
        scheduler: gives batches, and is told what they cost.
        bases: base models.
        meter: counts batches and rows.
        batch_tokens: padded tokens of a full batch.
    """

    def __init__(self, scheduler: Scheduler, bases: Bases, meter: Meter, batch_tokens: int) -> None:
        self._scheduler = scheduler
        self._bases = bases
        self._meter = meter
        self._batch_tokens = batch_tokens

    def step(self, timeout: float) -> bool:
        """Compute one batch; False when there was none to compute within `timeout` seconds."""
        tasks = self._scheduler.take(timeout)
        if not tasks:
            return False
        longest = max(len(task.row.ids) for task in tasks)
        self._meter.batch(len(tasks), len(tasks) * longest / self._batch_tokens)
        base = self._bases[tasks[0].pending.base]
        costs: dict[Task, int] = {}
        loading: dict[str, float] = defaultdict(float)
        seconds = 0.0
        waiting = tasks
        while waiting:
            with self._pinned(base.stack, _wanted(waiting), loading) as (batch, leases, waiting):
                known = base.runner.known([task.row for task in batch])
                costs.update(zip(batch, (_KNOWN_TOKENS if each else longest for each in known), strict=True))
                start = time.perf_counter()
                outcomes = self._compute(base.runner, batch, leases)
                seconds += time.perf_counter() - start
                for task, outcome in zip(batch, outcomes, strict=True):
                    _answer(task, outcome)
        self._scheduler.computed(tasks, [costs.get(task, 0) for task in tasks], seconds, loading)
        return True

    @contextmanager
    def _pinned(
        self, stack: StackedAdapters, tasks: Sequence[Task], loading: dict[str, float]
    ) -> Iterator[tuple[list[Task], dict[AdapterKey, Lease], list[Task]]]:
        """Pin the adapters of as many tasks as have room in the slots together; gives the others back for later.

        The seconds that this takes, and that loading them took, are added up by tenant.
        """
        leases: dict[AdapterKey, Lease] = {}
        now: list[Task] = []
        later: list[Task] = []
        try:
            for task in tasks:
                adapter = task.row.adapter
                if adapter is not None and adapter.unpaid:
                    loading[task.pending.tenant] += adapter.unpaid.pop()
                if adapter is None or adapter.delta is None or adapter.body in leases:
                    now.append(task)
                    continue
                start = time.perf_counter()
                try:
                    lease = stack.pin(adapter.body, adapter.delta)
                except Exception as error:
                    task.pending.fail(engine_error(error))
                    continue
                if lease is None:
                    later.append(task)
                else:
                    leases[adapter.body] = lease
                    now.append(task)
                    loading[task.pending.tenant] += time.perf_counter() - start
            yield now, leases, later
        finally:
            for lease in leases.values():
                stack.release(lease)

    def _compute(self, runner: Runner, tasks: list[Task], leases: Mapping[AdapterKey, Lease]) -> list[Outcome]:
        """Run a batch; when it fails, run its rows one by one, so that only those fail that cannot be computed."""
        if not tasks:
            return []
        try:
            outcomes = runner.run([task.row for task in tasks], leases)
        except Exception as error:
            if len(tasks) == 1:
                return [engine_error(error)]
            self._meter.add(reruns=1)
            return [outcome for task in tasks for outcome in self._compute(runner, [task], leases)]
        self._meter.add(rows=len(tasks), tokens=sum(len(task.row.ids) for task in tasks))
        return outcomes


def _wanted(tasks: Sequence[Task]) -> list[Task]:
    """Those whose answer somebody still waits for; who waited too long is told so."""
    now = time.monotonic()
    for task in tasks:
        if task.pending.expired(now):
            task.pending.fail(DeadlineExceeded("the deadline passed before the request was computed"))
    return [task for task in tasks if not task.pending.ended]


def _answer(task: Task, outcome: Outcome) -> None:
    if isinstance(outcome, GraftworkError):
        task.pending.fail(outcome)
    elif task.pending.put(task.index, outcome):
        task.pending.answer()
