"""CSV and TSV: rows counted by the line they start on, quoting checked strictly."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from graftwork.data.dataset import Dataset
from graftwork.data.encoding import Decoded
from graftwork.data.findings import Finding
from graftwork.data.rows import RowCollector, require_columns
from graftwork.errors import DataUnreadable

DELIMITERS = (",", ";", "\t", "|")
_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
_field_limit_lock = threading.Lock()


def read_delimited(
    decoded: Decoded, *, source: str, text: str, label: str | None, delimiter: str | None, prefer: str = ","
) -> Dataset:
    """Read CSV text.

    Args:
        decoded: the file's text and encoding.
        source: the file's name, for messages.
        text: name of the text column.
        label: name of the label column; None when there is none.
        delimiter: the delimiter, or None to find it by the header.
        prefer: the delimiter to take when the header does not tell (a tab for .tsv).

    Raises:
        DataUnreadable: no header, no rows, broken quoting, wrong numbers of fields, broken bytes; all listed.
        ColumnsMissing: the header lacks a column.
        DataRejected: texts or labels over the limits.
    """
    wanted = (text,) if label is None else (text, label)
    delimiter = _checked(delimiter, source) or _find_delimiter(decoded.text, wanted=wanted, prefer=prefer)
    with _no_field_limit():
        return _read(decoded, source, text, label, delimiter)


def _read(decoded: Decoded, source: str, text: str, label: str | None, delimiter: str) -> Dataset:
    collector = RowCollector(source, text=text, label=label, encoding=decoded.encoding)
    records = _records(decoded.text, delimiter, collector)
    header = next(records, None)
    if header is None:
        return collector.finish()
    _, names = header
    if decoded.damaged and any("\udc80" <= c <= "\udcff" for name in names for c in name):
        raise DataUnreadable(
            f"{source}: the header holds bytes that are not {decoded.encoding}, nor of another encoding we can tell",
            remedy="Give a text file; if it is one, say the encoding it was saved in (encoding=…).",
        )
    require_columns(names, text=text, label=label, source=source)
    text_at = names.index(text)
    label_at = None if label is None else names.index(label)
    for row, fields in records:
        if len(fields) == len(names):
            collector.add(row, fields[text_at], None if label_at is None else fields[label_at])
            continue
        hint = (
            f"a field that holds a {_NAMES.get(delimiter, 'delimiter')} must stand in double quotes"
            if len(fields) > len(names)
            else "a field is missing, or a quote closes too late"
        )
        collector.problem(f"{source}, row {row}", f"{_fields(len(fields))} where the header has {len(names)}: {hint}")
    if decoded.detected:
        collector.note(encoding_note(decoded))
    return collector.finish()


def encoding_note(decoded: Decoded) -> Finding:
    """What to tell about an encoding that was detected."""
    strange = [line for line in decoded.text.splitlines()[:10_000] if not line.isascii()]
    return Finding(
        code="encoding-detected",
        severity="warning",
        message=f"not UTF-8; read as {decoded.encoding}, which was detected",
        count=len(strange),
        examples=tuple(line[:80] for line in strange[:3]),
        remedy="Look at the examples; if letters are wrong, say the encoding the file was saved in, or save as UTF-8.",
    )


def _records(text: str, delimiter: str, collector: RowCollector) -> Iterator[tuple[int, list[str]]]:
    """Yield (line it starts on, fields); blank lines are passed over, broken quoting goes to the collector."""
    lines = list(io.StringIO(text, newline=""))
    first = 0
    while first < len(lines):
        reader = csv.reader(iter(lines[first:]) if first else iter(lines), delimiter=delimiter, strict=True)
        begun = first
        try:
            for fields in reader:
                if fields:
                    yield begun + 1, fields
                begun = first + reader.line_num
            return
        except csv.Error as error:
            end = first + reader.line_num
            opened = begun + _opening_line("".join(lines[begun:end]), delimiter)
            _tell_quoting(collector, error, row=begun + 1, opened=opened + 1, noticed=end)
            if opened + 1 != end:
                return  # where the field should have ended is anybody's guess, so what follows cannot be judged
            first = end


def _tell_quoting(collector: RowCollector, error: csv.Error, *, row: int, opened: int, noticed: int) -> None:
    where = f"{collector.source}, row {row}"
    if "unexpected end" in str(error):
        collector.problem(where, f"a double quote opens on line {opened} and is never closed")
    elif opened == noticed:
        collector.problem(where, "text follows a closing double quote; a quote inside a field is written twice")
    else:
        what = f"a double quote that opens on line {opened} closes on line {noticed} with text after it"
        collector.problem(where, f"{what}; the rows after line {opened} were not judged")


def _opening_line(record: str, delimiter: str) -> int:
    """Lines between the start of a broken record and the quote that opened its last quoted field."""
    opened, quoted, field_start, position = 0, False, True, 0
    while position < len(record):
        char = record[position]
        if quoted:
            if char == '"':
                if record[position + 1 : position + 2] == '"':
                    position += 1
                else:
                    quoted = False
        elif char == '"' and field_start:
            quoted, opened = True, position
        field_start = not quoted and char == delimiter
        position += 1
    return len(list(io.StringIO(record[: opened + 1], newline=""))) - 1


def _find_delimiter(text: str, *, wanted: tuple[str, ...], prefer: str) -> str:
    """The delimiter under which the header names all wanted columns; else the one that gives it most fields."""
    ordered = sorted(DELIMITERS, key=lambda delimiter: delimiter != prefer)
    headers = {delimiter: _header(text, delimiter) for delimiter in ordered}
    for delimiter, names in headers.items():
        if set(wanted) <= set(names):
            return delimiter
    return max(ordered, key=lambda delimiter: len(headers[delimiter]))


def _header(text: str, delimiter: str) -> list[str]:
    try:
        return next((f for f in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if f), [])
    except csv.Error:
        return []


def _checked(delimiter: str | None, source: str) -> str | None:
    if delimiter is None or (len(delimiter) == 1 and delimiter not in '"\r\n\x00'):
        return delimiter
    known = {name: char for char, name in _NAMES.items()} | {"\\t": "\t"}
    if delimiter in known:
        return known[delimiter]
    raise DataUnreadable(
        f"{source}: {delimiter!r} cannot be a delimiter",
        remedy="Say one character, or comma, semicolon, tab or pipe; leave it out to have it found.",
    )


@contextmanager
def _no_field_limit() -> Iterator[None]:
    """Python's csv refuses fields over 128 KiB by a process-wide limit; ours is per text and names the row."""
    with _field_limit_lock:
        before = csv.field_size_limit(2**31 - 1)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _fields(count: int) -> str:
    return "1 field" if count == 1 else f"{count} fields"
