"""Charts drawn with Matplotlib, narrow enough to be read on a phone."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING, Any

from graftwork.data.printable import printable
from graftwork.errors import DependencyMissing
from graftwork.reporting.document import Chart, Curves, Intervals, Reliability
from graftwork.reporting.svg import ACCENT, INK, MUTED, SECOND, THIRD, as_svg, page_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 4.4  # inches of 72 points
_ROW = 0.36
_NAME_WIDTH = 20
_LINES = ((ACCENT, "o", "-"), (SECOND, "s", "--"), (THIRD, "^", ":"))


def draw_chart(chart: Chart) -> str:
    """A chart as an `svg` element.

    Raises:
        DependencyMissing: if Matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DependencyMissing(
            "charts are drawn with Matplotlib, which is not installed",
            remedy="pip install 'graftwork[report]', or take the tables alone: --format markdown.",
        ) from error
    with page_style(chart.key):
        figure = Figure(figsize=(_WIDTH, _height(chart)), layout="constrained")
        if isinstance(chart, Intervals):
            _intervals(figure, chart)
        elif isinstance(chart, Reliability):
            _reliability(figure, chart)
        else:
            _curves(figure, chart)
        return as_svg(figure, key=chart.key, told=chart.told)


def _height(chart: Chart) -> float:
    return 0.75 + _ROW * len(chart.names) if isinstance(chart, Intervals) else 3.6


def _percent_axis(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def _name(text: str) -> str:
    """A name on two lines at most."""
    line = printable(" ".join(text.split()), one_line=True)
    return "\n".join(wrap(line, _NAME_WIDTH, max_lines=2, placeholder=" …"))


def _limits(axes: Axes, values: list[tuple[float, float, float]], places: list[float], *, upright: bool) -> None:
    """Points with their limits."""
    points = [value for value, _, _ in values]
    errors = [[value - low for value, low, _ in values], [high - value for value, _, high in values]]
    across: dict[str, Any] = {"yerr": errors} if upright else {"xerr": errors}
    first, second = (places, points) if upright else (points, places)
    axes.errorbar(first, second, **across, fmt="o", color=ACCENT, markersize=5, linewidth=1.6, capsize=0)


def _intervals(figure: Figure, chart: Intervals) -> None:
    axes = figure.add_subplot()
    places = [float(place) for place in range(len(chart.names))]
    if chart.line is not None:
        axes.axvline(chart.line, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    _limits(axes, [(one.value, one.low, one.high) for one in chart.values], places, upright=False)
    axes.set_yticks(places, [_name(name) for name in chart.names], parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=MUTED, alpha=0.25, linewidth=0.6)
    axes.set_ylim(len(places) - 0.5, -0.5)
    axes.set_xlim(max(0.0, min(0.8, *(one.low - 0.03 for one in chart.values))), 1.02)
    _percent_axis(axes.xaxis)


def _reliability(figure: Figure, chart: Reliability) -> None:
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    values = [(one.accuracy.value, one.accuracy.low, one.accuracy.high) for one in chart.bins]
    _limits(above, values, [one.confidence for one in chart.bins], upright=True)
    above.set_ylabel("right")
    above.set_ylim(0, 1.02)
    below.bar(
        [(one.low + one.high) / 2 for one in chart.bins],
        [one.rows for one in chart.bins],
        width=[0.9 * (one.high - one.low) for one in chart.bins],
        color=ACCENT,
        alpha=0.55,
    )
    below.set_ylabel("rows")
    below.set_xlabel("confidence")
    below.set_xlim(max(0.0, chart.bins[0].low - 0.03), 1.01)
    for axis in (above.yaxis, below.xaxis):
        _percent_axis(axis)


def _curves(figure: Figure, chart: Curves) -> None:
    from matplotlib.ticker import NullLocator

    axes = figure.add_subplot()
    counts = sorted({point.rows for curve in chart.curves for point in curve.points})
    for place, curve in enumerate(chart.curves):
        colour, marker, line = _LINES[place % len(_LINES)]
        rows = [point.rows for point in curve.points]
        axes.fill_between(
            rows,
            [point.accuracy.low for point in curve.points],
            [point.accuracy.high for point in curve.points],
            color=colour,
            alpha=0.16,
            linewidth=0,
        )
        axes.plot(
            rows,
            [point.accuracy.value for point in curve.points],
            color=colour,
            marker=marker,
            linestyle=line,
            markersize=5,
            linewidth=1.6,
            label=curve.name,
        )
    axes.set_xscale("log")
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("training rows")
    axes.set_ylabel("accuracy", color=INK)
    axes.grid(axis="y", color=MUTED, alpha=0.25, linewidth=0.6)
    axes.legend(loc="best")
    _percent_axis(axes.yaxis)
