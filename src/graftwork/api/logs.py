"""Structured logs: one JSON object a line. Texts, keys and bodies are never logged."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import TextIO

_WRITE = json.JSONEncoder(ensure_ascii=False).encode
_FIELDS = ("request_id", "route", "method", "status", "ms")
_TOGETHER_SECONDS = 0.02

access = logging.getLogger("graftwork.access")


def write_access_lines(route: str, method: str, status: int, served: Sequence[tuple[str, float]]) -> None:
    """Log requests that were served alike, each an id and its seconds: in one record, with a line of JSON for each.

    None of the arguments may need an escape in JSON.
    """
    # Made by hand: `info` would walk the stack for a place in the code that no access line names, and with a thousand
    # lines a second the encoder costs more than the answers.
    record = logging.LogRecord(access.name, logging.INFO, __file__, 0, "", None, None)
    opening = (
        f'{{"time":"{_stamp(record.created)}","level":"info","logger":"graftwork.access","message":"request",'
        '"request_id":"'
    )
    middle = f'","route":"{route}","method":"{method}","status":{status},"ms":'
    record.msg = "\n".join([f"{opening}{each}{middle}{seconds * 1000:.3f}}}" for each, seconds in served])
    record.ready = True
    access.handle(record)


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time, level, logger, message, request fields, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        if getattr(record, "ready", False):
            return str(record.msg)
        line: dict[str, object] = {
            "time": _stamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({name: record.__dict__[name] for name in _FIELDS if name in record.__dict__})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _WRITE(line)


class LineHandler(logging.Handler):
    """Writes lines to a stream, those of ordinary requests together with all of the next 20 ms.

    A call to the system for each of thousands of lines a second would take longer than what they tell of. Whatever is
    worse than ordinary is written at once, with all before it. A process that is killed loses what waits.

    Args:
        stream: where to.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: list[str] = []
        self._some = threading.Event()
        self._broken = False
        self._writer = threading.Thread(target=self._write_on, name="graftwork-log", daemon=True)
        self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record."""
        if self._broken:
            return
        try:
            self._lines.append(f"{self.format(record)}\n")
            if record.levelno > logging.INFO:
                self.flush()
            elif len(self._lines) == 1:
                self._some.set()
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Write what waits."""
        self.acquire()
        try:
            lines, self._lines = self._lines, []
            if lines:
                self._stream.write("".join(lines))
                self._stream.flush()
        finally:
            self.release()

    def _write_on(self) -> None:
        while True:
            self._some.wait()
            self._some.clear()
            time.sleep(_TOGETHER_SECONDS)
            try:
                self.flush()
            except (OSError, ValueError):
                self._broken = True  # nobody reads it any more
                return


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _stamp(seconds: float) -> str:
    """A time in ISO 8601, with milliseconds, in UTC."""
    whole = int(seconds)
    return f"{_second(whole)}.{int((seconds - whole) * 1000):03d}+00:00"


def log_to(stream: TextIO, level: int = logging.INFO) -> None:
    """Send the server's logs, access lines included, to `stream`. For entry points; nothing else configures logging."""
    handler = LineHandler(stream)
    handler.setFormatter(JsonFormatter())
    # No line says them, and finding them out for each costs as much as writing it.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    for name in ("graftwork", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level if name == "graftwork" else max(level, logging.WARNING))
        logger.propagate = False
