"""The compiler's process: started when there is something to compile, kept while there is more, ended when not."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO

_LAST_WORDS = 2000
# The compiler's own tries of what the C++ compiler can do take ten seconds; one that knows C++20 can do all of it.
_OWN = {"TORCHINDUCTOR_VEC_ISA_OK": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1", "HF_HUB_OFFLINE": "1"}


class CompileFailed(RuntimeError):
    """A network could not be compiled; the eager one goes on answering."""


class CompileGivenUp(CompileFailed):
    """Nobody wants the network any more."""


class CompilerProcess:
    """Runs `graftwork.serving.compiled.worker`, one job after the other; for one thread, except `close`.

    Starting it takes as long as compiling a small network, so it is kept until `rest`.

    Args:
        folder: where it writes while it works, in a folder of its own that is gone when it is ended.
        niceness: how far it gives way to other processes: 0 not at all, 19 to all.
    """

    def __init__(self, folder: Path, niceness: int) -> None:
        self._folder = folder
        self._niceness = niceness
        self._child: subprocess.Popen[bytes] | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._closed = False
        self._lock = threading.Lock()

    def run(self, job_file: Path) -> None:
        """Let it do a job.

        Raises:
            CompileFailed: it failed.
            CompileGivenUp: `close` was called.
            OSError: it could not be started.
        """
        stdin, stdout, log = self._started()
        try:
            stdin.write(f"{job_file}\n".encode())
            stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; what it said is in the log
        if not stdout.readline():
            code, words = self._ended(), log.read_text(errors="replace")[-_LAST_WORDS:]
            self.rest()
            if self._closed:
                raise CompileGivenUp("the server is stopping")
            raise CompileFailed(f"the compiler ended with {code}: {words}")

    def rest(self) -> None:
        """End it until there is another job; it holds some hundred megabytes."""
        with self._lock:
            child, self._child = self._child, None
            scratch, self._scratch = self._scratch, None
        if child is not None:
            child.kill()
            child.communicate()
        if scratch is not None:
            scratch.cleanup()

    def close(self) -> None:
        """End it, whatever it is doing; there will be no other."""
        with self._lock:
            self._closed = True
            if self._child is not None:
                self._child.kill()

    def _started(self) -> tuple[IO[bytes], IO[bytes], Path]:
        with self._lock:
            if self._closed:
                raise CompileGivenUp("the server is stopping")
            if self._scratch is None:
                self._scratch = tempfile.TemporaryDirectory(prefix="compiling-", dir=self._folder)
            work = Path(self._scratch.name)
            if self._child is None:
                own = _OWN | {"TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"), "TMPDIR": str(work)}
                # The number of threads is for the process that serves; the worker's decides what code is made.
                environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | own
                with (work / "log").open("wb") as log:
                    self._child = subprocess.Popen(
                        [sys.executable, "-m", "graftwork.serving.compiled.worker", str(self._niceness)],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=log,
                        cwd=work,
                        env=environment,
                    )
            assert self._child.stdin is not None
            assert self._child.stdout is not None
            return self._child.stdin, self._child.stdout, work / "log"

    def _ended(self) -> int | None:
        child = self._child
        return None if child is None else child.wait()
