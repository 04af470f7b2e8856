"""Run as a program: does one thing to many copies of a registry, and is killed at another step of it in each.

    python -m tests.registry.killed OPERATION HOME STRIDE

For every STRIDE-th step k, and the last two, it copies HOME to HOME-k, forks, and lets the child do OPERATION in the
copy until its k-th step, where it kills itself with SIGKILL. It prints the steps it killed at. A step is a call that
writes or commits: fsync, rename, an SQL statement, a commit, and last the end of the operation.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from graftwork.registry.publish import Publication  # imported before the forks, so that each is quick
from tests.registry.builders import Registry, make_artifact

__all__ = ["OPERATIONS", "Publication"]


def _publish(registry: Registry) -> None:
    base = registry.bases.resolve("tiny")
    registry.catalog.publish("acme/news", make_artifact(base, seed=1), idempotency_key="job")


def _fetch(registry: Registry) -> None:
    registry.bases.fetch(registry.bases.resolve("tiny"))


OPERATIONS: dict[str, Callable[[Registry], object]] = {
    "add": lambda registry: registry.add_base("second", seed=1),
    "publish": _publish,
    "fetch": _fetch,
}


class _Steps:
    """Counts steps, and kills this process at the one numbered `kill_at`."""

    def __init__(self, kill_at: int | None) -> None:
        self.count = 0
        self._kill_at = kill_at
        self._lock = threading.Lock()

    def reach(self, *_: object, **__: object) -> None:
        with self._lock:
            if self.count == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            self.count += 1


def _before(reach: Callable[[], None], owner: Any, name: str) -> None:
    real = getattr(owner, name)

    def counted(*arguments: Any) -> Any:
        reach()
        return real(*arguments)

    setattr(owner, name, counted)


def _child(operation: str, home: Path, kill_at: int | None) -> int:
    registry = Registry.open(home)
    steps = _Steps(kill_at)
    _before(steps.reach, os, "fsync")
    _before(steps.reach, Path, "replace")
    event.listen(sa.Engine, "before_cursor_execute", steps.reach)
    event.listen(sa.Engine, "commit", steps.reach)
    OPERATIONS[operation](registry)
    steps.reach()
    return steps.count


def _forked(operation: str, home: Path, kill_at: int | None) -> int:
    child = os.fork()
    if child == 0:
        os._exit(_child(operation, home, kill_at))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(operation: str, home: Path, stride: int) -> None:
    """Kill at every `stride`-th step, and at the last two."""
    rehearsal = home.with_name(f"{home.name}-rehearsal")
    shutil.copytree(home, rehearsal)
    count = _forked(operation, rehearsal, None)
    for step in sorted({*range(0, count, stride), count - 2, count - 1}):
        copy = home.with_name(f"{home.name}-{step}")
        shutil.copytree(home, copy)
        if _forked(operation, copy, step) != -signal.SIGKILL:
            raise SystemExit(f"the child was not killed at step {step}")
        print(step)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
