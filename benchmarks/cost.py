"""Estimated against measured seconds and memory: `python -m benchmarks.cost [--home FOLDER] [--dataset tweets]`.

A run may stop early, and nobody knows when before it. So there are three ratios: of what was expected, which is an
average over stops; of the epochs that were run, which says how wrong the rates are; and with `--patience 4`, where no
run stops before its four epochs, both are the same.

This machine is measured by `graft cost` first; then each strategy is trained by `graft train` in a process of its own
on 1,000 rows, and what its record says it was expected to take stands beside what it took. What is in the home folder
already is not trained again, so a run that was stopped goes on; `--calibrate` measures the machine anew.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_STRATEGIES = ("feature-extraction", "lora", "prefix-tuning", "partial", "full", "auto")
_CACHE = Path(".cache/graftwork")
_FILES = {
    "tweets": _CACHE / "datasets/sentiment/tweets/train.csv",
    "bbc": _CACHE / "datasets/bbc/train.csv",
}


def main() -> None:
    """Measure, train what is missing, print the table."""
    from benchmarks import machine

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=_CACHE / "cost-home")
    parser.add_argument("--dataset", choices=sorted(_FILES), default="tweets")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--only", default=",".join(_STRATEGIES))
    parser.add_argument("--patience", type=int, default=1, help="evaluations without a better one before it stops")
    parser.add_argument("--calibrate", action="store_true")
    given = parser.parse_args()
    home: Path = given.home.absolute()
    rows = _rows(_FILES[given.dataset], given.rows, home / f"{given.dataset}-{given.rows}.csv")
    if not (home / "registry.db").exists():
        _graft(home, "base", "add", str(_CACHE / "models/minilm"), "--name", "minilm", "--json")
    calibrate = ["--calibrate"] if given.calibrate else []
    told = _graft(home, "cost", str(rows), "--base", "minilm", "--hardware", "here", "--json", *calibrate)
    print(machine.describe(), told["calibration"]["machine"], sep="\n", flush=True)
    columns = "strategy", "epochs", "expected s", "from, to", "measured s", "ratio", "of epochs run", "expected MB"
    print("|", " | ".join([*columns, "measured MB", "ratio"]), "|")
    print("| --- " * 10 + "|")
    for strategy in given.only.split(","):
        name = f"{given.dataset}/{strategy}-{given.rows}-{given.patience}"
        print(_line(strategy, _record(home, rows, name, strategy, given.patience)), flush=True)
    print(json.dumps(_graft(home, "cost", "--errors", "--json")))


def _rows(source: Path, count: int, target: Path) -> Path:
    """The first rows of a data set, in a file of their own."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open(encoding="utf-8", newline="") as file, target.open("w", encoding="utf-8", newline="") as made:
        writer = csv.writer(made)
        for number, row in enumerate(csv.reader(file)):
            if number > count:
                break
            writer.writerow(row)
    return target


def _record(home: Path, rows: Path, name: str, strategy: str, patience: int) -> dict[str, Any]:
    """What a run noted; trained if it is not there."""
    known = {f"{one['reference'].partition('@')[0]}": one for one in _graft(home, "list", "--json")}
    if name not in known:
        line = ["train", str(rows), "--base", "minilm", "--name", name, "--strategy", strategy, "--json"]
        if strategy != "feature-extraction":
            line += ["--set", f"fine_tuning.patience={patience}"]
        known[name] = _graft(home, *line)
    record: dict[str, Any] = known[name]["record"]
    return record


def _line(strategy: str, record: dict[str, Any]) -> str:
    cost, seconds, peak = record["cost"], record["total_seconds"], record["peak_bytes"]
    stages = {stage: (round(cost["stages"][stage], 1), took) for stage, took in record["seconds"].items()}
    print(strategy, json.dumps(stages), file=sys.stderr)
    return (
        f"| {strategy} | {record.get('epochs', '–')} | {cost['seconds']:.1f} | "
        f"{cost['least_seconds']:.1f}, {cost['most_seconds']:.1f} | {seconds:.1f} | "
        f"{seconds / cost['seconds']:.2f} | {seconds / cost['seconds_of_epochs_run']:.2f} | "
        f"{cost['peak_bytes'] / 1e6:,.0f} | {peak / 1e6:,.0f} | "
        f"{peak / cost['peak_bytes']:.2f} |"
    )


def _graft(home: Path, *line: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "graftwork", *line],
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "GRAFT_HOME": str(home)},
        text=True,
    )
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
