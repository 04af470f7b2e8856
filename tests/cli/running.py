"""The command line as its users meet it: words in, an exit code, output and errors out."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.main import get_command

from graftwork.cli import main


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document that a command with --json prints."""
        assert self.code == 0, self.err
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        """The error that a command with --json prints."""
        assert self.out == ""
        content: dict[str, Any] = json.loads(self.err)["error"]
        assert set(content) == {"code", "message", "problems", "remedy"}
        return content

    @property
    def told(self) -> str:
        """Output and errors, without line ends and the borders of tables."""
        return " ".join((self.out + self.err).split())


Graft = Callable[..., Done]


@cache
def command_of(application: typer.Typer) -> Any:
    """The command that Typer makes of an application, which it would make anew for every line that is run here."""
    return get_command(application)


def run_graft(line: Sequence[str], *, stdin: bytes = b"") -> Done:
    """Run `graft` in this process, by the function that the installed command calls."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(typer.main, "get_command", command_of)
        patch.setattr(sys, "argv", ["graft", *line])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            main()
    assert "Traceback" not in err.getvalue()
    return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def furnish(home: Path, model: Path, rows: Path) -> Path:
    """Make a home with the base model `tiny` and the adapter `acme/topics@1`, by the command line itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_HOME", str(home))
        patch.setenv("GRAFT_DTYPE", "float32")
        train = ["train", str(rows), "--base", "tiny", "--name", "acme/topics", "--strategy", "feature-extraction"]
        for line in (["base", "add", str(model), "--name", "tiny"], train):
            assert run_graft(line).code == 0
    return home


def spawn_graft(line: Sequence[str], **options: Any) -> Done:
    """Run `python -m graftwork` as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "graftwork", *line], capture_output=True, text=True, check=False, **options
    )
    assert "Traceback" not in done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def environment(**changes: str) -> dict[str, str]:
    """This process's environment with changes."""
    return {**os.environ, **changes}
