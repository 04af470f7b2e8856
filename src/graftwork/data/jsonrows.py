"""JSON: one object a line, or one array of objects; each row keeps the line it starts on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from graftwork.data.dataset import Dataset
from graftwork.data.delimited import encoding_note
from graftwork.data.encoding import Decoded
from graftwork.data.rows import RowCollector, require_columns

_SPACE = re.compile(r"[ \t\r\n]*")


def read_json(decoded: Decoded, *, source: str, text: str, label: str | None) -> Dataset:
    """Read JSON lines, or an array of objects when the first character is a bracket.

    Raises:
        DataUnreadable: lines that are not JSON, not objects, lack a field or hold no text; all listed with their line.
        ColumnsMissing: no object has one of the fields.
        DataRejected: texts or labels over the limits.
    """
    collector = RowCollector(source, text=text, label=label, encoding=decoded.encoding)
    array = decoded.text.lstrip(" \t\r\n").startswith("[")
    seen: dict[str, None] = {}
    for row, record in (_array if array else _lines)(decoded.text, collector):
        seen |= dict.fromkeys(record)
        missing = [name for name in (text, label) if name is not None and name not in record]
        for name in missing:
            collector.problem(f"{source}, row {row}", f"there is no field {name!r}")
        if not missing:
            collector.add(row, record[text], None if label is None else record[label])
    if seen:
        require_columns(seen, text=text, label=label, source=source)
    if decoded.detected:
        collector.note(encoding_note(decoded))
    return collector.finish()


def _lines(content: str, collector: RowCollector) -> Iterator[tuple[int, dict[str, object]]]:
    # str.splitlines would also split at U+2028 and its like, which JSON allows inside strings
    for row, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            collector.problem(f"{collector.source}, row {row}", f"not JSON: {_reason(error)}")
            continue
        if isinstance(value, dict):
            yield row, value
        else:
            collector.problem(f"{collector.source}, row {row}", f"not an object but {_kind(value)}")


def _array(content: str, collector: RowCollector) -> Iterator[tuple[int, dict[str, object]]]:
    decoder = json.JSONDecoder()
    position = _skip(content, content.index("[") + 1)
    line, counted = 1, 0
    closed = content[position : position + 1] == "]"
    if closed:
        position = _skip(content, position + 1)
    while not closed:
        line += content.count("\n", counted, position)
        counted = position
        where = f"{collector.source}, row {line}"
        try:
            value, position = decoder.raw_decode(content, position)
        except (ValueError, RecursionError) as error:
            collector.problem(where, f"not JSON: {_reason(error)}; what follows was not read")
            return
        if isinstance(value, dict):
            yield line, value
        else:
            collector.problem(where, f"not an object but {_kind(value)}")
        position = _skip(content, position)
        mark = content[position : position + 1]
        if mark not in (",", "]"):
            collector.problem(where, "after this object there is neither a comma nor the closing bracket")
            return
        closed = mark == "]"
        position = _skip(content, position + 1)
    if position < len(content):
        collector.problem(collector.source, "there is more after the closing bracket")


def _skip(content: str, position: int) -> int:
    match = _SPACE.match(content, position)
    return match.end() if match else position


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {str: "a string", bool: "a boolean", int: "a number", float: "a number", list: "an array"}
    return names[type(value)]
