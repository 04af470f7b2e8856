"""Training beside its peers: `python -m benchmarks.training [--sets …] [--seeds 5] [--rows 1000] [--only …]`.

The same encoder (MiniLM-L6), the same rows and test rows for all, a process of its own for every run, one after the
other, contestants in turn. Wall clock and peak memory are those of the whole process, imports included; for ours also
the check of the rows, the evaluation and publishing. Peers with a rate to tune take the best of `RATES` on a fifth of
the first seed's training rows; a column counts that time and one does not. Ours run with their defaults.

Every run is written to `--results` as it ends, and runs that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.training.runs import CACHE, OURS, PEERS, SETS, Bench, Run
from benchmarks.training.table import print_table


def main() -> None:
    """Make the runs that are missing and print the tables."""
    options = _options()
    options.results.parent.mkdir(parents=True, exist_ok=True)
    done = _read(options.results)
    bench = Bench(options.results.parent / "work", done.values())
    print(describe())
    for data in options.sets:
        for seed in range(options.seeds):
            for contestant in options.only:
                key = (data, options.rows, options.per_class, seed, contestant)
                if key in done:
                    continue
                run = bench.run(*key)
                if run is None:
                    continue
                done[key] = run
                with options.results.open("a") as lines:
                    lines.write(json.dumps(asdict(run)) + "\n")
                told = f"{data} {seed} {contestant}: {run.seconds:.1f} s, {run.accuracy:.1%} {run.note}"
                print(told, file=sys.stderr, flush=True)
    for data in options.sets:
        print_table(data, [run for key, run in done.items() if key[:3] == (data, options.rows, options.per_class)])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["tweets", "movies", "bbc"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--per-class", action="store_true", help="--rows counts a class: 8 or 64, say")
    parser.add_argument("--only", nargs="+", choices=(*OURS, *PEERS), default=[*OURS, *PEERS])
    parser.add_argument("--results", type=Path, default=CACHE / "bench" / "training" / "runs.jsonl")
    return parser.parse_args()


def _read(results: Path) -> dict[tuple[str, int, bool, int, str], Run]:
    if not results.exists():
        return {}
    runs = [Run(**json.loads(line)) for line in results.read_text().splitlines()]
    return {(run.data, run.rows, run.per_class, run.seed, run.contestant): run for run in runs}


if __name__ == "__main__":
    main()
