#!/usr/bin/env python3
"""Fetch small labelled data sets from package indexes: texts as CSV files, pictures and sounds as folders of files.

What is there already and whole is left alone; run it again whenever it was interrupted.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from graftwork.demo.datasets import DATASETS, fetch_dataset
from graftwork.errors import GraftworkError

DEFAULT_OUT = Path(__file__).resolve().parents[1] / ".cache" / "graftwork" / "datasets"


def main() -> int:
    """Fetch what the command line names; the exit code is the error's, 0 without one."""
    lines = [f"  {name:10} {source.title}; terms: {source.terms}" for name, source in DATASETS.items()]
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="data sets:\n" + "\n".join(lines) + "\nspam and emoji need npm, captions and speech need apt.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", default=["bbc", "sentiment"], help="which ones (default: bbc sentiment)")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder for them (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        for name in arguments.names:
            fetch_dataset(name, arguments.out, say=partial(print, flush=True))
    except GraftworkError as error:
        print(f"{error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
