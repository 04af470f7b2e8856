from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "graftwork"


@dataclass(frozen=True)
class Shell:
    """Runs `graft` as people run it: in a process of its own, over one home folder."""

    home: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a customer: no test settings, the environment's own `graft` and `python` first."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GRAFT_", "HF_"))}
        return {
            **kept,
            "GRAFT_HOME": str(self.home),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env={**self.environment, **variables},
        )

    def graft(self, *arguments: str, **variables: str) -> str:
        done = self.run("graft", *arguments, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def json(self, *arguments: str, **variables: str) -> Any:
        return json.loads(self.graft(*arguments, "--json", **variables))

    @contextmanager
    def server(self, *options: str, **variables: str) -> Iterator[str]:
        """A `graft serve` on a free port; its URL. Stopped by SIGTERM, and it must end well."""
        command = ["graft", "serve", "--port", "0", "--json", "--no-log", *options]
        environment = {**self.environment, **variables}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as child:
            try:
                assert child.stdout is not None
                told = ""
                for line in child.stdout:
                    told += line
                    if line == "}\n":
                        break
                yield json.loads(told)["url"]
            finally:
                child.terminate()
            assert child.wait() == 0


@dataclass(frozen=True)
class Tour:
    """What `examples/tour.sh` printed, and the shell it ran in."""

    shell: Shell
    output: str


@pytest.fixture(scope="session")
def tour(tmp_path_factory: pytest.TempPathFactory, minilm_folder: Path, datasets_folder: Path) -> Tour:
    """The customer's journey of `examples/tour.sh`, walked once on the real model and the real texts.

    Processes that run tests side by side walk it once for all, and go on from copies of the home that it left.
    """
    assert minilm_folder.is_dir()
    assert datasets_folder.is_dir()
    base = tmp_path_factory.getbasetemp()
    walked = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "walked"
    with FileLock(f"{walked}.lock"):
        if not walked.exists():
            done = Shell(walked / "home").run("bash", "examples/tour.sh", str(CACHE))
            walked.mkdir(exist_ok=True)
            (walked / "output").write_text(done.stdout)
            (walked / "failure").write_text(done.stdout + done.stderr if done.returncode else "")
    assert not (failure := (walked / "failure").read_text()), failure
    shell = Shell(tmp_path_factory.mktemp("tour") / "home")
    shutil.copytree(walked / "home", shell.home)
    return Tour(shell, (walked / "output").read_text())
