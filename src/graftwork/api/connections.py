"""Connections within bounds: how many there are, and how long one may keep the server waiting.

uvicorn times idle connections; `body` times bodies. Here are those that send their headers slowly or never, those that
do not read their answers, and those that are too many.

And here requests are answered at once that can be: the rest of what comes is uvicorn's. A request whose head is known
and that came in one piece waits until the event loop has read what others sent, and is answered with theirs (`rounds`).
Whatever else happens to its connection meanwhile, it is answered first. Other plain requests are held until their
bodies are here, and answered alone.
"""

from __future__ import annotations

import asyncio
import time
from functools import lru_cache
from typing import Any

from pydantic_core import to_json
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from graftwork.api.instant import Instant, Request
from graftwork.api.known_heads import KnownHeads
from graftwork.api.limits import ServerLimits
from graftwork.api.middleware import new_request_id, request_id_of
from graftwork.api.problems import MEDIA_TYPE, RequestTimeout, problem_content
from graftwork.api.rounds import Rounds
from graftwork.api.wellformed import plain_json
from graftwork.errors import GraftworkError, ServiceUnavailable

_HELD_BYTES = 65_536  # of a body that may be answered at once
_HELD_SECONDS = 0.5  # that are waited for the rest of it, which many clients send apart from the headers


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's connection with bounds; `look` is to be called about once a second."""

    limits: ServerLimits
    most_held: int
    instant: Instant
    rounds: Rounds
    heads: KnownHeads

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._headers_since: float | None = None
        self._begun = False
        self._unread_since: float | None = None
        self._held: bytes | None = None  # what has come of a body that may be answered at once
        self._held_since = 0.0
        self._waiting: bytes | None = None  # a whole request that is answered with others'
        self._asked = False  # whether it was asked already if it can be answered at once
        self._rests = True  # nothing of a request has come that is not all here
        self._messages = 0  # that began in the bytes that are being read
        self._plain = False  # the last of them
        self._answered_since: float | None = None  # at once, and nothing has come since

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
        self._answer_first()
        if self.transport.is_closing():
            return
        self._answered_since = None
        if self._rests and self._nothing_before():
            request = self.heads.request(data)
            if request is not None:
                self._unset_keepalive_if_required()
                self._headers_since = None
                self._waiting = data
                self.rounds.add(self, request)
                return
        self._read(data)

    def answered(self, answer: bytes | None) -> None:
        """Take the answer to the request that waited for it; None when the application has to be asked."""
        data, self._waiting = self._waiting, None
        if data is None or self.transport.is_closing():
            return
        if answer is None:
            self._asked = True
            self._read(data)
        else:
            self._write(answer)

    def eof_received(self) -> None:
        """The client sends no more; it may still read."""
        self._answer_first()
        super().eof_received()

    def shutdown(self) -> None:
        """The server stops."""
        self._answer_first()
        super().shutdown()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._headers_since = self.loop.time()
        self._begun = True
        self._answered_since = None
        self._rests = False
        self._messages += 1

    def on_headers_complete(self) -> None:
        """All headers of a request are here."""
        self._headers_since = None
        self._begun = False
        asked, self._asked = self._asked, False
        self._plain = not asked and self._may_be_answered_at_once()
        if self._plain:
            self._held, self._held_since = b"", time.perf_counter()
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        if self._held is None:
            super().on_body(body)
            return
        self._held += body
        if len(self._held) > self.most_held:
            self._let_go()

    def on_message_complete(self) -> None:
        """All of a request is here."""
        self._rests = not self.parser.should_upgrade()
        if self._held is not None:
            request = Request(self.headers, self._held, request_id_of(self.headers), self._held_since)
            (answer,) = self.instant.answers([request])
            if answer is not None:
                self._held = None
                self._write(answer)
                return
            self._let_go()
        super().on_message_complete()

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
        held = self._held is not None and not self.transport.is_closing()
        if held and time.perf_counter() - self._held_since > _HELD_SECONDS:
            self._let_go()  # the rest takes its time: from here on the application waits for it
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
        elif self._answered_since is not None and now - self._answered_since > self.timeout_keep_alive:
            self.transport.close()

    def _answer_first(self) -> None:
        """Answer what waits before anything else happens to the connection."""
        if self._waiting is not None:
            self.rounds.answer()

    def _read(self, data: bytes) -> None:
        """Let uvicorn read, and keep the head of a plain request that came alone, at once and whole."""
        rested, self._messages = self._rests, 0
        super().data_received(data)
        if rested and self._rests and self._messages == 1 and self._plain:
            self.heads.keep(data, self.headers)

    def _nothing_before(self) -> bool:
        """Whether a request that comes now is the next to be answered, and its answer can be written."""
        answered = self.cycle is None or self.cycle.response_complete
        return answered and not self.pipeline and not self.flow.write_paused

    def _may_be_answered_at_once(self) -> bool:
        """Whether it is a plain request, of a connection on which nothing else is to be answered before."""
        return (
            self.instant.takes(self.parser.get_method(), self.url)
            and self._nothing_before()
            and not self.expect_100_continue
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
            and plain_json(self.headers, self.most_held)
        )

    def _let_go(self) -> None:
        """Hand a request that was held to the application, as far as it has come."""
        body, self._held = self._held, None
        super().on_headers_complete()
        if body:
            super().on_body(body)

    def _write(self, answer: bytes) -> None:
        """Answer with status 200, and wait for the next request; `look` takes the place of uvicorn's timer."""
        self.server_state.total_requests += 1
        self.transport.write(_opening(tuple(self.server_state.default_headers)) + answer)
        self._answered_since = self.loop.time()

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


@lru_cache(maxsize=1)
def _opening(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """With what every answer of status 200 begins: headers change with the date, once a second."""
    return STATUS_LINE[200] + b"".join([b"%b: %b\r\n" % header for header in headers])


def bounded_by(limits: ServerLimits, instant: Instant) -> type[BoundedConnection]:
    """The connections of one server; `instant` answers what is known."""
    most = min(_HELD_BYTES, limits.body_bytes)
    shared = {
        "limits": limits,
        "most_held": most,
        "instant": instant,
        "heads": KnownHeads(Instant.line, most),
        "rounds": Rounds(instant),
    }
    return type("BoundedConnection", (BoundedConnection,), shared)
