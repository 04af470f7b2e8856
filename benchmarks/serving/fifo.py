"""The peer of fairness: a scheduler that serves in order of arrival. Both with their steps timed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from graftwork.serving.batch import Draft, Task
from graftwork.serving.request import Pending
from graftwork.serving.scheduler import Scheduler


class Step(NamedTuple):
    """One step: rows, padded tokens, and seconds from the choice of its batch to its answers."""

    rows: int
    tokens: int
    seconds: float


class Timed(Scheduler):
    """The engine's own scheduler, which also keeps every step."""

    def __init__(self, **bounds: Any) -> None:
        super().__init__(**bounds)
        self.steps: list[Step] = []
        self._taken = 0.0

    def take(self, timeout: float) -> list[Task]:
        """As `Scheduler.take`."""
        tasks = super().take(timeout)
        self._taken = time.perf_counter()
        return tasks

    def computed(
        self, tasks: Sequence[Task], costs: Sequence[int], seconds: float, loading: Mapping[str, float] | None = None
    ) -> None:
        """As `Scheduler.computed`."""
        super().computed(tasks, costs, seconds, loading)
        longest = max(len(task.row.ids) for task in tasks)
        self.steps.append(Step(len(tasks), len(tasks) * longest, time.perf_counter() - self._taken))


class Fifo(Timed):
    """Rows in order of arrival, as many as the token budget has room for."""

    def __init__(self, **bounds: Any) -> None:
        super().__init__(**bounds)
        self._composer: Any = _InOrder(bounds["batch_tokens"], bounds["batch_rows"])


class _InOrder:
    """What `Composer` does, without tenants, lengths and times."""

    def __init__(self, batch_tokens: int, batch_rows: int) -> None:
        self.lanes = self
        self._bounds = batch_tokens, batch_rows
        self._waiting: deque[Pending] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, pending: Pending, _: float) -> None:
        self._waiting.append(pending)

    def compose(self, _: float) -> list[Task]:
        draft = Draft(*self._bounds)
        while self._waiting and not draft.full:
            pending = self._waiting[0]
            length_class = pending.longest_class
            if length_class is None or pending.ended:
                self._waiting.popleft()
            elif draft.tasks and draft.tasks[0].pending.base != pending.base:
                break
            else:
                draft.take(pending, length_class, 1)
        return draft.tasks

    def computed(self, *_: Any) -> None:
        pass
