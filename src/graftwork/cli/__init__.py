"""The command line, one file a verb group."""

from __future__ import annotations

import sys
from io import TextIOWrapper

from graftwork.cli.app import app
from graftwork.cli.session import run


def main() -> None:
    """Run the command line and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A label in Greek must not end a listing where the locale knows Latin letters only.
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(lambda: app(prog_name="graft", standalone_mode=False)))


__all__ = ["app", "main"]
