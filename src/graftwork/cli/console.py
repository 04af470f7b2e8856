"""What the command line prints: tables and sentences for people, JSON for programs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from graftwork.data.printable import printable

if TYPE_CHECKING:
    from graftwork.data.findings import Finding
    from graftwork.errors import GraftworkError
    from graftwork.evaluation import tables

_FILE_WIDTH = 160  # of tables in files and pipes, where nothing says how wide a line may be
_STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}
_IN_JSON = re.compile("[\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def out() -> Console:
    """Results go here; colours only on a terminal. User's text is never read as markup."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    return console


def err() -> Console:
    """Progress and errors go here."""
    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def styled(*parts: str | tuple[str, str]) -> Text:
    """Printable text in one piece; a part may be `(text, style)`."""
    return Text.assemble(
        *(printable(part) if isinstance(part, str) else (printable(part[0]), part[1]) for part in parts)
    )


def say(*parts: str | tuple[str, str]) -> None:
    """Print one line; a part may be `(text, style)`."""
    out().print(styled(*parts))


def print_json(content: Any) -> None:
    """Print one JSON document with dates in ISO 8601."""
    sys.stdout.write(_as_json(content, stream=sys.stdout, indent=2) + "\n")


def _as_json(content: Any, *, stream: TextIO, indent: int | None = None) -> str:
    takes_all = "utf" in (getattr(stream, "encoding", None) or "utf-8").lower()
    text = json.dumps(content, indent=indent, ensure_ascii=not takes_all, default=_plain)
    return _IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    return str(value)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, note: str = "") -> None:
    """Draw a table whose first column is text and whose others are flush right when they are numbers."""
    listed = [list(row) for row in rows]
    table = Table(
        title=Text(printable(title)) if title else None,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=None,
    )
    for place, column in enumerate(columns):
        numbers = place > 0 and all(_is_number(row[place]) for row in listed)
        table.add_column(
            Text(printable(column, one_line=True)), justify="right" if numbers else "left", overflow="fold"
        )
    for row in listed:
        table.add_row(*(Text(printable(cell, one_line=True)) for cell in row))
    console = out()
    console.print(table)
    if note:
        console.print(styled((note, "dim")))


def print_evaluation_table(table: tables.Table) -> None:
    """Draw one of the evaluation room's tables."""
    print_table(table.title, table.columns, table.rows, note=table.note)


def print_findings(findings: Iterable[Finding]) -> None:
    """List what a check of the rows found."""
    console = err()
    for finding in findings:
        console.print(styled((f"{finding.severity}: ", _STYLES[finding.severity]), finding.message))
        details = []
        if finding.rows:
            details.append(
                "rows " + ", ".join(map(str, finding.rows)) + (" …" if finding.count > len(finding.rows) else "")
            )
        if finding.examples:
            details.append("for example " + ", ".join(repr(example) for example in finding.examples[:3]))
        if details:
            console.print(styled(("  " + "; ".join(details), "dim")))
        if finding.remedy:
            console.print(styled(("  " + finding.remedy, "dim")))


def print_error(error: GraftworkError, *, as_json: bool) -> None:
    """Say what was wrong, where, and what to do, on standard error."""
    if as_json:
        content = {
            "code": error.code,
            "message": error.message,
            "problems": [{"where": problem.where, "what": problem.what} for problem in error.problems],
            "remedy": error.remedy,
        }
        sys.stderr.write(_as_json({"error": content}, stream=sys.stderr) + "\n")
        return
    console = err()
    console.print(styled(("error: ", "bold red"), error.message))
    for problem in error.problems:
        console.print(styled(f"  - {problem}"))
    if error.remedy:
        console.print(styled(error.remedy))


def file_size(count: int) -> str:
    """Bytes as people read them.

    Example:
        >>> file_size(31565), file_size(91618861)
        ('31.6 kB', '91.6 MB')
    """
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


def parameter_count(count: int) -> str:
    """A number of weights as people read it.

    Example:
        >>> parameter_count(22_713_216), parameter_count(36_048), parameter_count(8_030_261_248)
        ('22.7 M', '36.0 k', '8.0 G')
    """
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)


def shortened(text: str, width: int) -> str:
    r"""A text on one line of at most `width` characters.

    Example:
        >>> shortened("the court\ngranted", 12)
        'the court g…'
    """
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def moment(when: datetime) -> str:
    """A time in the local zone, to the minute."""
    return when.astimezone().strftime("%Y-%m-%d %H:%M")


def _is_number(cell: str) -> bool:
    return cell[:1].isdigit() or cell[:1] in {"", "-", "+", "–"}
