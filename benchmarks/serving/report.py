"""What a benchmark found: tables of figures, and the bars they are held against."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.serving.timing import Timings

Figure = float | int | str | None


@dataclass(frozen=True)
class Bar:
    """A figure that was promised.

    Attributes:
        claim: what was promised.
        measured: what was found.
        bound: the least or the most it may be.
        at_most: the bound is the most it may be; otherwise the least.
    """

    claim: str
    measured: float
    bound: float
    at_most: bool = True

    @property
    def met(self) -> bool:
        """Whether it was kept; what could not be measured was not."""
        if math.isnan(self.measured):
            return False
        return self.measured <= self.bound if self.at_most else self.measured >= self.bound

    def __str__(self) -> str:
        sense = "at most" if self.at_most else "at least"
        verdict = "met" if self.met else "MISSED"
        return f"{verdict:7}{self.claim}: {shown(self.measured)} ({sense} {shown(self.bound)})"


@dataclass
class Table:
    """One table.

    Attributes:
        title: what was measured, on what.
        columns: what the figures of a line are.
        lines: figures by what they are of.
        bars: what was promised of them.
        notes: what one must know to read them.
    """

    title: str
    columns: Sequence[str]
    lines: dict[str, Sequence[Figure]] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        cells = [["", *self.columns]]
        cells += [[name, *map(shown, figures)] for name, figures in self.lines.items()]
        widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
        text = [self.title, ""]
        text += [_aligned(row, widths) for row in cells]
        text += ["", *map(str, self.bars)] if self.bars else []
        text += ["", *self.notes] if self.notes else []
        return "\n".join(text)

    def as_json(self) -> dict[str, Any]:
        """The same for machines."""
        lines = {name: dict(zip(self.columns, figures, strict=True)) for name, figures in self.lines.items()}
        bars = [asdict(bar) | {"met": bar.met} for bar in self.bars]
        return {"title": self.title, "lines": lines, "bars": bars, "notes": self.notes}


def timed_table(title: str, timings: Timings, peers: Mapping[str, str]) -> Table:
    """A table of milliseconds and of ratios to peers.

    Args:
        title: of the table.
        timings: of every candidate.
        peers: columns of ratios: by the column's heading, the candidate that the others are compared with.
    """
    table = Table(title, ["ms", "middle half", *peers])
    for name in timings.rounds:
        spread = timings.spread(name)
        half = f"{spread.low * 1e3:.2f} to {spread.high * 1e3:.2f}"
        ratios = [timings.ratio(name, peer) if peer in timings.rounds else None for peer in peers.values()]
        table.lines[name] = (spread.median * 1e3, half, *ratios)
    return table


def shown(figure: Figure) -> str:
    """A figure with as many digits as one reads.

    Example:
        >>> [shown(figure) for figure in (12345.6, 123.4, 12.34, 1.234, 0.001234, None, "f32")]
        ['12,346', '123', '12.3', '1.23', '0.0012', '-', 'f32']
    """
    if figure is None or (isinstance(figure, float) and math.isnan(figure)):
        return "-"
    if isinstance(figure, str):
        return figure
    if isinstance(figure, int):
        return f"{figure:,}"
    if abs(figure) >= 100:
        return f"{figure:,.0f}"
    if abs(figure) >= 10:
        return f"{figure:.1f}"
    return f"{figure:.2f}" if abs(figure) >= 0.1 or figure == 0 else f"{figure:.2g}"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    name, *figures = row
    return "  ".join(
        [f"{name:{widths[0]}}", *(f"{cell:>{width}}" for cell, width in zip(figures, widths[1:], strict=True))]
    )
