"""`graft serve` in a process of its own, over a registry that is there, and its resident memory."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.serving.setting import Setting


@dataclass(frozen=True)
class Server:
    """A server that is ready.

    Attributes:
        url: where it answers.
        process: its process.
    """

    url: str
    process: subprocess.Popen[str]

    def resident(self) -> int:
        """Bytes of its memory that are in RAM."""
        return _kilobytes("VmRSS", self.process.pid) * 1024

    def peak(self) -> int:
        """Most bytes of its memory that ever were in RAM."""
        return _kilobytes("VmHWM", self.process.pid) * 1024

    def metric(self, name: str) -> float:
        """A metric of the engine without labels."""
        text = httpx.get(f"{self.url}/metrics", timeout=60).text
        found = re.search(rf"^graftwork_engine_{name} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0


@contextmanager
def server(setting: Setting, home: Path, options: Sequence[str] = (), *, compiled: bool) -> Iterator[Server]:
    """Serve a registry; its base models are loaded before this gives the server."""
    command = [sys.executable, "-m", "graftwork", "serve", "--port", "0", "--json", "--no-log", *options]
    environment = os.environ | {
        "GRAFT_HOME": str(home.absolute()),
        "GRAFT_DTYPE": setting.dtype,
        "GRAFT_COMPILE": "1" if compiled else "0",
        "OMP_NUM_THREADS": str(setting.threads),
    }
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            told = ""
            while not told.endswith("}\n"):
                line = process.stdout.readline()
                if not line:
                    raise SystemExit("the server ended before it was ready")
                told += line
            yield Server(json.loads(told)["url"], process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _kilobytes(field: str, pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1])
