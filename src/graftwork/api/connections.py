"""Connections within bounds: how many there are, and how long one may keep the server waiting.

uvicorn times idle connections; `body` times bodies. Here are those that send their headers slowly or never, those that
do not read their answers, and those that are too many.
"""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic_core import to_json
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from graftwork.api.limits import ServerLimits
from graftwork.api.middleware import new_request_id
from graftwork.api.problems import MEDIA_TYPE, RequestTimeout, problem_content
from graftwork.errors import GraftworkError, ServiceUnavailable


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's connection with bounds; `look` is to be called about once a second."""

    limits: ServerLimits

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._headers_since: float | None = None
        self._begun = False
        self._unread_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or refuse it when there are too many."""
        super().connection_made(transport)
        self._headers_since = self.loop.time()
        if len(self.connections) > self.limits.connections:
            self._end(
                ServiceUnavailable(
                    f"{self.limits.connections} connections are open already",
                    remedy="Connect again in a moment, or keep connections and use them again.",
                    retry_after=1.0,
                )
            )

    def data_received(self, data: bytes) -> None:
        """Take bytes; those of a connection that was refused are dropped."""
        if not self.transport.is_closing():
            super().data_received(data)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._headers_since = self.loop.time()
        self._begun = True

    def on_headers_complete(self) -> None:
        """All headers of a request are here."""
        self._headers_since = None
        self._begun = False
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """The client reads more slowly than it is answered."""
        super().pause_writing()
        self._unread_since = self.loop.time()

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        self._unread_since = None

    def look(self, now: float) -> None:
        """End the connection if it has kept the server waiting for too long; `now` is the loop's time."""
        if self.transport.is_closing() and self._unread_since is None:
            self._unread_since = now  # closed from here, and the last bytes are not taken
        if self._unread_since is not None:
            if now - self._unread_since > self.limits.send_seconds:
                self.transport.abort()
        elif self._headers_since is not None and now - self._headers_since > self.limits.header_seconds:
            if self._begun:
                self._end(
                    RequestTimeout(
                        f"the headers did not arrive within {self.limits.header_seconds:g} s",
                        remedy="Send a request at once.",
                    )
                )
            else:
                self.transport.close()

    def _end(self, error: GraftworkError) -> None:
        """Tell a client that has not sent a request yet why it is let go of."""
        request_id = new_request_id()
        body = to_json(problem_content(error, request_id))
        retry = f"retry-after: {error.retry_after:.0f}\r\n" if error.retry_after else ""
        head = (
            f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nx-request-id: {request_id}\r\n"
            f"{retry}connection: close\r\n\r\n"
        )
        self.transport.write(STATUS_LINE[error.status] + head.encode() + body)
        self.transport.close()


def bounded_by(limits: ServerLimits) -> type[BoundedConnection]:
    """The connections of one server."""
    return type("BoundedConnection", (BoundedConnection,), {"limits": limits})
