"""The process of the `graft` command, which is also `python -m graftwork`: quick to start, quick to end."""

from __future__ import annotations

import gc
import os
import sys

from graftwork.cli import main

# Importing torch and transformers makes millions of objects that all stay: looking through them for garbage every
# 700 new ones, Python's default, takes 0.6 s of a run. `graft serve`, which lives long, sets the default again.
_NEW_OBJECTS = 1_000_000


def graft() -> None:
    """Entry point of the `graft` command. It ends the process: nothing that outlives a command may call it."""
    gc.set_threshold(_NEW_OBJECTS)
    try:
        main()
    except SystemExit as ended:
        if "torch" not in sys.modules or not isinstance(ended.code, int):
            raise
        # Taking torch down module by module takes 0.8 s and does nothing: files are closed, output is flushed.
        sys.stderr.flush()
        os._exit(ended.code)


if __name__ == "__main__":
    graft()
