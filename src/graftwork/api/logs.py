"""Structured logs: one JSON object a line. Texts, keys and bodies are never logged."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TextIO

_WRITE = json.JSONEncoder(ensure_ascii=False).encode
_FIELDS = ("request_id", "route", "method", "status", "ms")


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time, level, logger, message, request fields, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({name: record.__dict__[name] for name in _FIELDS if name in record.__dict__})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _WRITE(line)


def log_to(stream: TextIO, level: int = logging.INFO) -> None:
    """Send the server's logs, access lines included, to `stream`. For entry points; nothing else configures logging."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    # No line says them, and finding them out for each costs as much as writing it.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    for name in ("graftwork", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level if name == "graftwork" else max(level, logging.WARNING))
        logger.propagate = False
