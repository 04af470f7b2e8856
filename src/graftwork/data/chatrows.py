"""Read conversations, rows of a prompt and a response or of chat messages, and say all that is wrong in them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from graftwork.data.conversations import RESPONSE, ROLES, Conversation, Conversations, Message
from graftwork.data.rows import MAX_PROBLEMS, MAX_TEXT
from graftwork.errors import ColumnsMissing, DataRejected, DataUnreadable, Problem

PROMPT, REPLY, MESSAGES = "prompt", "response", "messages"
_JSON, _DELIMITED = (".jsonl", ".ndjson", ".json"), {".csv": ",", ".tsv": "\t"}

Record = Mapping[str, object]


def holds_conversations(path: Path, encoding: str | None = None) -> bool:
    """Whether the first row of a file has a prompt and a response, or messages; False for what cannot be read."""
    try:
        first = next((record for _, record in _records(path, encoding) if isinstance(record, Mapping)), {})
    except (DataUnreadable, OSError):
        return False
    return _kind(first) is not None


def read_conversations(path: Path, encoding: str | None = None) -> Conversations:
    """Read a .jsonl, .ndjson, .json, .csv or .tsv file of conversations.

    Args:
        path: the file. Its rows have the fields `prompt` and `response`, or `messages`, a list of objects with `role`
            (`system`, `user`, `assistant`) and `content`.
        encoding: the file's encoding; detected when it is not said.

    Raises:
        DataUnreadable: missing, empty, of another kind, or broken.
        ColumnsMissing: the rows have neither of these fields.
        DataRejected: with every row that has no response, an empty prompt, an unknown role or turns in no order.
    """
    source = str(path)
    if not path.is_file():
        raise DataUnreadable(f"{path}: there is no such file", remedy="Check the path.")
    turns: list[Conversation] = []
    rows: list[int] = []
    problems: list[Problem] = []
    for row, record in _records(path, encoding):
        where = f"{source}, row {row}"
        if isinstance(record, str):
            problems.append(Problem(where, record))
            continue
        if not turns and not problems and _kind(record) is None:
            raise _no_columns(source, record)
        read, mistakes = _conversation(record)
        problems += [Problem(where, mistake) for mistake in mistakes]
        if not mistakes:
            turns.append(read)
            rows.append(row)
    if problems:
        hidden = len(problems) - MAX_PROBLEMS
        more = [Problem("", f"and {hidden:,} more")] if hidden > 0 else []
        raise DataRejected(
            f"{source}: {len(problems):,} {'mistake' if len(problems) == 1 else 'mistakes'} in the conversations",
            problems=[*problems[:MAX_PROBLEMS], *more],
            remedy="Mend these rows, or take them out; nothing was read.",
        )
    if not turns:
        raise DataUnreadable(f"{source}: there are no rows", remedy='Give rows such as {"prompt": …, "response": …}.')
    return Conversations(tuple(turns), tuple(rows), source)


def _records(path: Path, encoding: str | None) -> Iterator[tuple[int, Record | str]]:
    """Row number and fields, or what is wrong with the row."""
    suffix = path.suffix.lower()
    if suffix not in (*_JSON, *_DELIMITED):
        raise DataUnreadable(
            f"{path}: conversations are not read from files ending in {suffix or 'nothing'}",
            remedy=f"Save them as one of {', '.join((*_JSON, *_DELIMITED))}.",
        )
    from graftwork.data.encoding import decode

    try:
        decoded = decode(path.read_bytes(), encoding=encoding, source=str(path))
    except OSError as error:
        raise DataUnreadable(f"{path}: cannot be read: {error.strerror}", remedy="Check the path.") from error
    if decoded.damaged:
        raise DataUnreadable(
            f"{path}: holds bytes that are not {decoded.encoding}", remedy="Say its encoding, or save it as UTF-8."
        )
    if suffix in _DELIMITED:
        yield from _delimited(decoded.text, _DELIMITED[suffix], str(path))
    elif decoded.text.lstrip().startswith("["):
        yield from _array(decoded.text, str(path))
    else:
        yield from _lines(decoded.text)


def _delimited(text: str, delimiter: str, source: str) -> Iterator[tuple[int, Record | str]]:
    before = csv.field_size_limit(2**31 - 1)  # lengths are judged where a row is known by its number
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = next(reader, [])
        begun = reader.line_num
        for fields in reader:
            row, begun = begun + 1, reader.line_num
            if not fields:
                continue
            if len(fields) == len(names):
                yield row, dict(zip(names, fields, strict=True))
            else:
                yield row, f"has {len(fields)} fields where the header has {len(names)}"
    except csv.Error as error:
        raise DataUnreadable(
            f"{source}: broken quoting near line {reader.line_num}: {error}",
            remedy="A field that holds the delimiter, a quote or a line end must stand in double quotes.",
        ) from error
    finally:
        csv.field_size_limit(before)


def _array(text: str, source: str) -> Iterator[tuple[int, Record | str]]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataUnreadable(
            f"{source}: not JSON: {error}", remedy="Give an array of objects, or JSON lines."
        ) from error
    for row, record in enumerate(content, start=1):
        yield row, record if isinstance(record, dict) else "is not an object"


def _lines(text: str) -> Iterator[tuple[int, Record | str]]:
    # str.splitlines would also split at U+2028 and its like, which JSON allows inside strings
    for row, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield row, f"not JSON: {error}"
            continue
        yield row, record if isinstance(record, dict) else "is not an object"


def _kind(record: Record) -> str | None:
    if MESSAGES in record:
        return MESSAGES
    return PROMPT if PROMPT in record and REPLY in record else None


def _no_columns(source: str, record: Record) -> ColumnsMissing:
    shown = ", ".join(repr(str(name)[:40]) for name in list(record)[:20]) or "none"
    return ColumnsMissing(
        f"{source}: the rows have the fields {shown}",
        problems=[Problem(source, f"has neither {PROMPT!r} and {REPLY!r} nor {MESSAGES!r}")],
        remedy='Give rows such as {"prompt": …, "response": …} or {"messages": [{"role": "user", "content": …}, …]}.',
    )


def _conversation(record: Record) -> tuple[Conversation, list[str]]:
    """The messages of a row, and everything that is wrong with it."""
    kind = _kind(record)
    if kind is None:
        missing = [name for name in (PROMPT, REPLY) if name not in record]
        return (), [f"there is no field {name!r}" for name in missing]
    if kind == PROMPT:
        pairs: list[Any] = [
            {"role": "user", "content": record[PROMPT]},
            {"role": RESPONSE, "content": record[REPLY]},
        ]
        names = [PROMPT, REPLY]
    else:
        given = record[MESSAGES]
        if not isinstance(given, list) or not given:
            return (), ["'messages' is no list of messages"]
        pairs, names = given, [f"message {place}" for place in range(1, len(given) + 1)]
    messages: list[Message] = []
    mistakes: list[str] = []
    for name, message in zip(names, pairs, strict=True):
        found = _message(message)
        if isinstance(found, str):
            mistakes.append(f"{name} {found}")
        else:
            messages.append(found)
    if not mistakes:
        mistakes += _order(messages)
    return tuple(messages), mistakes


def _message(message: Any) -> Message | str:
    if not isinstance(message, dict):
        return "is no object with role and content"
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        return f"has the role {role!r}; known are {', '.join(ROLES)}"
    return _wrong(content) or Message(role, str(content))


def _wrong(content: Any) -> str | None:
    """What is wrong with the content of a message."""
    if not isinstance(content, str):
        return "has no text"
    if not content.strip():
        return "is empty"
    if len(content) > MAX_TEXT:
        return f"has {len(content):,} characters; {MAX_TEXT:,} are allowed"
    lone = not content.isascii() and any("\ud800" <= character <= "\udfff" for character in content)
    return "holds half a character (a lone surrogate)" if lone else None


def _order(messages: list[Message]) -> list[str]:
    roles = [message.role for message in messages]
    talk = roles[1:] if roles[0] == "system" else roles
    if talk[-1:] != [RESPONSE]:
        return ["has no response: the last message must be the assistant's"]
    if "system" in talk:
        return ["has a system message that is not the first"]
    turns = [("user", RESPONSE)[place % 2] for place in range(len(talk))]
    if talk != turns:
        return [f"has messages out of order ({', '.join(talk)}): user and assistant must take turns, user first"]
    return []
