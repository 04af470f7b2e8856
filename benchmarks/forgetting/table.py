"""The table of all runs: means over seeds, differences paired over rows and seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.forgetting.runs import SOURCE, SOURCE_ROWS, TARGET, TARGET_ROWS, Run


def print_table(runs: list[Run]) -> None:
    """Lost: accuracy on the source after less before. The target is compared with going on without protection.

    Intervals are 95 % bootstrap intervals over seeds and rows, both drawn anew.
    """
    if not runs:
        return
    seeds = sorted({run.seed for run in runs})
    rows = len(runs[0].source_right)
    print(f"\n{SOURCE} ({SOURCE_ROWS} rows), then {TARGET} ({TARGET_ROWS} rows)")
    print(f"seeds {seeds}, {rows} test rows of each\n")
    print(
        "| method | seeds | source before | after | lost [95 %] | target before | after | beside none [95 %] | bytes |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    plain = {run.seed: run for run in runs if run.method == "none"}
    for method in dict.fromkeys(run.method for run in runs):
        mine = [run for run in runs if run.method == method]
        lost = difference([(run.source_right, run.source_right_before) for run in mine])
        paired = [(run.target_right, plain[run.seed].target_right) for run in mine if run.seed in plain]
        beside = difference(paired) if paired and method != "none" else ""
        refused = sum(run.refused for run in mine)
        told = f"{method} ({refused} refused)" if refused else method
        before = statistics.mean(float(np.mean(run.target_right_before)) for run in mine)
        after = statistics.mean(run.target for run in mine)
        size = statistics.mean(run.size_bytes / run.base_bytes for run in mine)
        was, now = statistics.mean(run.source_before for run in mine), statistics.mean(run.source for run in mine)
        cells = (told, str(len(mine)), f"{was:.1%}", f"{now:.1%}", lost, f"{before:.1%}", f"{after:.1%}", beside)
        print(f"| {' | '.join(cells)} | {size:.2%} |")


def difference(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> str:
    """Mean difference of accuracy with its interval, of pairs that hold the same rows, one a seed."""
    each: NDArray[np.float64] = np.array([np.subtract(one, other, dtype=float) for one, other in pairs])
    random = np.random.default_rng(0)
    means = [
        each[random.integers(len(each), size=len(each))][:, random.integers(each.shape[1], size=each.shape[1])].mean()
        for _ in range(2000)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{each.mean():+.1%} [{low:+.1%}, {high:+.1%}]"
