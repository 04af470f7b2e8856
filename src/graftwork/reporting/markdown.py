"""A report as Markdown: what rows say is shown as it is, and never read as markup."""

from __future__ import annotations

import re

from graftwork.data.printable import printable
from graftwork.evaluation.tables import Table
from graftwork.reporting.document import Document, Section

_MARKS = re.compile(r"([\\`*_{}\[\]<>#|!~&$])")


def as_markdown(document: Document) -> str:
    """The verdict and all tables; charts show nothing else.

    Args:
        document: the report.
    """
    verdict = document.verdict
    lines = [f"# {_inline(document.title)}", "", _inline(document.subtitle), "", f"**{_inline(verdict.headline)}**", ""]
    lines += [f"- {_inline(sentence)}" for sentence in (*(one.sentence for one in verdict.claims), *verdict.remarks)]
    for section in document.sections:
        lines += ["", *_section(section)]
    return "\n".join(lines) + "\n"


def _section(section: Section) -> list[str]:
    lines = [f"## {section.title}"]
    for sentence in section.text:
        lines += ["", _inline(sentence)]
    for table in section.tables:
        lines += ["", *_table(table)]
    if section.commands:
        lines += ["", *(f"    {printable(command, one_line=True)}" for command in section.commands)]
    return lines


def _table(table: Table) -> list[str]:
    lines = [f"**{_inline(table.title)}**", "", _row(table.columns), _row(["---"] * len(table.columns), plain=True)]
    lines += [_row(row) for row in table.rows]
    if table.note:
        lines += ["", _inline(table.note)]
    return lines


def _row(cells: tuple[str, ...] | list[str], *, plain: bool = False) -> str:
    return "| " + " | ".join(cell if plain else _cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    return "<br>".join(_inline(line) for line in text.splitlines()) or " "


def _inline(text: str) -> str:
    """One line in which nothing is markup; a backslash makes any sign a plain one."""
    return _MARKS.sub(r"\\\1", printable(" ".join(text.split()), one_line=True))
