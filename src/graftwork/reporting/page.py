"""A report as one HTML page that needs nothing else: no script, no font, no picture, no style from elsewhere."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from markupsafe import Markup

from graftwork.data.printable import printable
from graftwork.evaluation.tables import Table
from graftwork.reporting.charts import draw_chart
from graftwork.reporting.document import Chart, Document

_WIDE = 40  # characters from which a cell is prose and may wrap


def as_html(document: Document) -> str:
    """The page. What rows and labels say is shown as it is, and never read as markup.

    Args:
        document: the report.

    Raises:
        DependencyMissing: if Matplotlib or Jinja is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        from graftwork.errors import DependencyMissing

        raise DependencyMissing(
            "pages are made with Jinja, which is not installed",
            remedy="pip install 'graftwork[report]', or take the tables alone: --format markdown.",
        ) from error
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_spelled
    )
    environment.globals.update(draw=_drawn, kinds=column_kinds)
    folder = files("graftwork.reporting")
    template = environment.from_string((folder / "page.html").read_text("utf-8"))
    return template.render(document=document, style=Markup((folder / "page.css").read_text("utf-8")))


def _drawn(chart: Chart) -> Markup:
    return Markup(draw_chart(chart))


def _spelled(value: Any) -> Any:
    """What an expression of the template gives, its control characters spelled out."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def column_kinds(table: Table) -> list[str]:
    """How each column is set: `prose` wraps, `number` stands flush right, `word` stays on its line.

    Example:
        >>> column_kinds(Table("", ("class", "rows"), (("ham", "12"), ("spam", "–"))))
        ['word', 'number']
    """
    return [_kind([row[place] for row in table.rows], first=place == 0) for place in range(len(table.columns))]


def _kind(cells: list[str], *, first: bool) -> str:
    if any(len(cell) > _WIDE for cell in cells):
        return "prose"
    numbers = not first and all(cell[:1].isdigit() or cell[:1] in {"", "-", "+", "–", "·", "<"} for cell in cells)
    return "number" if numbers else "word"
