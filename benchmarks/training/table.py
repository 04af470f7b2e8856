"""The table of a set of rows."""

from __future__ import annotations

import statistics
from collections import defaultdict

from benchmarks.training.runs import TEST_ROWS, Run


def print_table(data: str, runs: list[Run]) -> None:
    """Medians over seeds; the difference to tuned full fine-tuning is paired over the test rows of all seeds.

    `full/it` is how many times longer tuned full fine-tuning takes; `+tuning` counts the search for rates as well; `to
    step` are seconds from the start of the process to its first optimizer step.
    """
    by_name: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_name[run.contestant].append(run)
    if not runs:
        return
    peer = by_name.get("trainer-full", [])
    slowest = statistics.median(run.seconds for run in peer) if peer else None
    tuned = slowest + peer[0].tuning_seconds if slowest is not None else None
    unit = "a class" if runs[0].per_class else "rows"
    print(
        f"\n{data}, {runs[0].rows} {unit}, {max(len(each) for each in by_name.values())} seeds, {TEST_ROWS} test rows"
    )
    heads = "".join(f"{head:>9}" for head in ("seconds", "full/it", "+tuning", "to step", "peak MB"))
    print(f"{'':<20}{heads}{'accuracy':>10}{'macro-F1':>10}  less tuned full [95 %]")
    for name, mine in by_name.items():
        seconds = statistics.median(run.seconds for run in mine)
        ratio = f"{slowest / seconds:.1f}" if slowest else "–"
        whole = f"{tuned / (seconds + mine[0].tuning_seconds):.1f}" if tuned else "–"
        peak = statistics.median(run.peak_mb for run in mine)
        accuracy = statistics.mean(run.accuracy for run in mine)
        f1 = statistics.mean(run.macro_f1 for run in mine)
        paired = _difference(mine, peer)
        times = f"{seconds:>9.1f}{ratio:>9}{whole:>9}{_to_first_step(mine):>9}"
        print(f"{name:<20}{times}{peak:>9.0f}{accuracy:>10.1%}{f1:>10.1%}  {paired}")


def _to_first_step(runs: list[Run]) -> str:
    known = [run.first_step for run in runs if run.first_step is not None]
    return f"{statistics.median(known):.1f}" if known else "–"


def _difference(mine: list[Run], theirs: list[Run]) -> str:
    """Mean difference of accuracy on the same rows and seeds, with a bootstrap interval over rows."""
    import numpy as np

    other = {run.seed: run.right for run in theirs}
    pairs = [np.subtract(run.right, other[run.seed], dtype=float) for run in mine if run.seed in other]
    if not pairs:
        return ""
    by_row = np.mean(pairs, axis=0)
    draws = np.random.default_rng(0).integers(len(by_row), size=(2000, len(by_row)))
    low, high = np.quantile(by_row[draws].mean(axis=1), [0.025, 0.975])
    return f"{by_row.mean():+.1%} [{low:+.1%}, {high:+.1%}]"
