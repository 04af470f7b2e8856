"""What is forgotten when a fine-tune goes on with another domain: `python -m benchmarks.forgetting [--seeds 0 1 2]`.

MiniLM-L6 is fully fine-tuned on film reviews and goes on with tweets (three sentiments, both fetched by
`scripts/fetch_datasets.py`): without protection, with L2-SP, with EWC, and with a kept sample learned again. Judged are
the published artifacts, on rows of both domains that are the same for all seeds; a seed draws the training rows and
decides every random choice. `--strengths` tries strengths on rows that no reported run sees.

Every run is written to `--results` as it ends, and runs that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.forgetting.runs import CACHE, METHODS, Bench, read_runs
from benchmarks.forgetting.table import print_table
from benchmarks.machine import describe


def main() -> None:
    """Make the runs that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--strengths", type=float, nargs="+", help="Try these on the rows kept for that.")
    parser.add_argument("--results", type=Path, default=CACHE / "bench" / "forgetting" / "runs.jsonl")
    asked = parser.parse_args()
    asked.results.parent.mkdir(parents=True, exist_ok=True)
    trying = asked.strengths is not None
    methods = [
        f"{method}; strength {strength:g}" if trying and method in ("l2-sp", "ewc") else method
        for strength in (asked.strengths if trying else [0.0])
        for method in asked.only
    ]
    bench = Bench(asked.results, trying=trying)
    print(describe())
    for seed in asked.seeds:
        for method in dict.fromkeys(methods):
            if any(run.key == (trying, seed, method) for run in read_runs(asked.results)):
                continue
            run = bench.run(seed, method)
            with asked.results.open("a") as lines:
                lines.write(json.dumps(asdict(run)) + "\n")
            told = f"{seed} {method}: source {run.source_before:.1%} -> {run.source:.1%}, target {run.target:.1%}"
            print(told, file=sys.stderr, flush=True)
    wanted = {(trying, seed, method) for seed in asked.seeds for method in methods}
    print_table([run for run in read_runs(asked.results) if run.key in wanted])


if __name__ == "__main__":
    main()
