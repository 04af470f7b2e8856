"""Heads of a batch: each row by its own, as ours does it, beside one packed product of all heads, sliced by row."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.serving.report import Table
from benchmarks.serving.setting import Setting
from benchmarks.serving.timing import clocked, interleaved
from graftwork.serving.heads import Double, Head, Vector, apply_heads, one_thread_a_product

WIDTH = 384
ROWS = 32
CLASSES = (2, 16, 128, 1_000)
DISTINCT = (1, 8, 32)


def run(setting: Setting) -> Iterator[Table]:
    """A table by classes and distinct heads."""
    one_thread_a_product()  # as in a server
    table = Table(
        f"heads of {ROWS} rows, width {WIDTH}, microseconds",
        ["each by its own", "packed before", "packed now", "packed before / own"],
    )
    random = np.random.default_rng(0)
    for classes in CLASSES:
        for distinct in DISTINCT:
            heads = [
                Head(random.standard_normal((classes, WIDTH), np.float32), np.zeros(classes, np.float32), 1.0)
                for _ in range(distinct)
            ]
            table.lines[f"{distinct} heads of {classes:,} classes"] = _line(setting, heads, classes)
    table.notes = ["packed before: the heads of the batch side by side already; packed now: put so for the batch"]
    yield table


def _line(setting: Setting, heads: list[Head], classes: int) -> tuple[float, float, float, float]:
    vectors: list[Vector] = list(np.random.default_rng(1).standard_normal((ROWS, WIDTH), np.float32))
    mine = [heads[row % len(heads)] for row in range(ROWS)]
    begins = [row % len(heads) * classes for row in range(ROWS)]
    kept = _packed(heads)

    def packed(pack: Double | None = None) -> object:
        weight = _packed(heads) if pack is None else pack
        product = np.array(vectors, np.float64) @ weight.T
        return [product[row, begin : begin + classes].astype(np.float32) for row, begin in enumerate(begins)]

    timings = interleaved(
        [
            clocked("own", lambda: apply_heads(vectors, mine)),
            clocked("before", lambda: packed(kept)),
            clocked("now", packed),
        ],
        setting.rounds,
    )
    own, before, now = (timings.spread(name).median * 1e6 for name in ("own", "before", "now"))
    return own, before, now, timings.ratio("before", "own")


def _packed(heads: list[Head]) -> Double:
    return np.concatenate([head.weight for head in heads])
