"""Two ways to add the updates of one module, by shape: a batched product over rows, or a product for each adapter."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.serving.report import Table
from benchmarks.serving.setting import Setting
from benchmarks.serving.timing import clocked, interleaved
from graftwork.serving.updates import Application, segments_of

WIDTH = 384
SLOTS = 1_001
RANKS = (8, 64)
SHAPES = ((32, 8), (32, 32), (32, 128), (64, 16))


def run(setting: Setting) -> Iterator[Table]:
    """A table by rank: which way is quicker for so many rows, tokens and adapters."""
    for rank in RANKS:
        generator = torch.Generator().manual_seed(0)
        a = torch.randn(SLOTS, WIDTH, rank, generator=generator)
        b = torch.randn(SLOTS, rank, WIDTH, generator=generator)
        table = Table(
            f"one update of width {WIDTH}, rank {rank}, float32, microseconds",
            ["tokens an adapter", "by row", "by segment", "segment / row", "eager takes"],
        )
        for rows, tokens in SHAPES:
            for distinct in (count for count in (1, 2, 4, 8, 16, 32) if count <= rows):
                table.lines[f"{rows} rows x {tokens} tokens, {distinct} adapters"] = _line(
                    setting, a, b, rows, tokens, distinct
                )
        yield table


def _line(
    setting: Setting, a: torch.Tensor, b: torch.Tensor, rows: int, tokens: int, distinct: int
) -> tuple[int, float, float, float, str]:
    # Spread over the tables, as adapters of different tenants are.
    slots = torch.arange(rows) % distinct * (SLOTS // distinct) + 1
    application = Application(a, b, slots, segments_of(slots))
    inputs, output = torch.randn(rows, tokens, WIDTH), torch.zeros(rows, tokens, WIDTH)
    ways = {"by row": application.add_by_row, "by segment": application.add_by_segment, "chosen": application.add}
    with torch.inference_mode():
        timings = interleaved(
            [clocked(name, lambda way=way: way(inputs, output)) for name, way in ways.items()],  # type: ignore[misc]
            setting.rounds,
        )
    by_row, by_segment, chosen = (timings.spread(name).median * 1e6 for name in ways)
    taken = "segment" if abs(chosen - by_segment) < abs(chosen - by_row) else "row"
    return rows * tokens // distinct, by_row, by_segment, timings.ratio("by segment", "by row"), taken
