"""What is exported against what is served: `python -m benchmarks.exports [MODEL_FOLDER]`.

Trains an adapter of each strategy on headlines (`scripts/fetch_datasets.py bbc`), exports it as ONNX and for
transformers, and asks the code beside each export and the engine for the same 200 texts. Prints the largest difference
of a probability and how many labels differ, for engines in float32 and in bfloat16.
"""

from __future__ import annotations

import csv
import os
import re
import sys
import tempfile
from collections.abc import Callable
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine

_CACHE = Path(".cache/graftwork")
_STRATEGIES = ("feature-extraction", "lora", "prefix-tuning", "partial", "full")
_TRAIN, _TEST = 200, 200


def main() -> None:
    folder = Path(sys.argv[1]) if sys.argv[1:] else _CACHE / "models" / "minilm"
    print(machine.describe())
    print(f"command: python -m benchmarks.exports {' '.join(sys.argv[1:])}\n")
    print(
        f"{'strategy':<20}{'format':<14}{'engine':<10}{'largest difference':>20}{'other labels':>14}{'MB':>7}",
        flush=True,
    )
    for strategy in _STRATEGIES:
        with tempfile.TemporaryDirectory() as scratch:
            _compare(folder, strategy, Path(scratch))


def _compare(folder: Path, strategy: str, scratch: Path) -> None:
    """Train, publish, export twice, ask everybody."""
    train_rows, test_rows = (_headlines(name)[:count] for name, count in (("train", _TRAIN), ("test", _TEST)))
    texts = [text for text, _ in test_rows]
    file = scratch / "rows.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([("text", "label"), *train_rows])
    os.environ["GRAFT_HOME"] = str(scratch / "home")
    os.environ["GRAFT_DTYPE"] = "float32"
    _graft("base", "add", str(folder), "--name", "base")
    extra = [] if strategy == "feature-extraction" else ["--set", "fine_tuning.epochs=2"]
    _graft("train", str(file), "--base", "base", "--name", "bench/news", "--strategy", strategy, *extra)
    served = {dtype: _served(dtype, texts) for dtype in ("float32", "bfloat16")}
    for form, page in (("onnx", "README.md"), ("transformers", "CLASSIFY.md")):
        to = scratch / form
        if form == "transformers" and strategy == "prefix-tuning":
            continue
        _graft("export", "bench/news", "--out", str(to), "--format", form)
        found = np.stack([row for _, row in _classify(to / page)(texts)])
        size = sum(path.stat().st_size for path in to.rglob("*") if path.is_file()) / 1e6
        for dtype, wanted in served.items():
            largest = np.abs(found - wanted).max()
            others = int((found.argmax(axis=1) != wanted.argmax(axis=1)).sum())
            print(
                f"{strategy:<20}{form:<14}{dtype:<10}{largest:>20.1e}{others:>8} of {len(texts)}{size:>7.0f}",
                flush=True,
            )


def _headlines(split: str) -> list[tuple[str, str]]:
    with (_CACHE / "datasets" / "bbc" / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        return [(row["text"].strip().splitlines()[0], row["label"]) for row in csv.DictReader(file)]


def _graft(*arguments: str) -> None:
    from graftwork.cli.app import app

    with redirect_stdout(sys.stderr):
        app(list(arguments), standalone_mode=False)


def _served(dtype: str, texts: list[str]) -> Any:
    """Probabilities `[texts, classes]` by the engine."""
    from graftwork.cli.asking import ask
    from graftwork.settings import load_settings
    from graftwork.wiring import open_services

    os.environ["GRAFT_DTYPE"] = dtype
    try:
        with open_services(load_settings()) as opened:
            (answer,) = ask(opened, [opened.catalog.resolve("bench/news")], texts)
            return answer.probabilities
    finally:
        os.environ["GRAFT_DTYPE"] = "float32"


def _classify(page: Path) -> Callable[[list[str]], list[tuple[str, Any]]]:
    """The function that an exported page defines."""
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    with chdir(page.parent), redirect_stdout(sys.stderr):
        exec(code, names)
    function: Callable[[list[str]], list[tuple[str, Any]]] = names["classify"]
    return function


if __name__ == "__main__":
    main()
