"""The outermost layer: request ids, the access log, request metrics, and the last net under everything."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Sequence
from random import getrandbits

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graftwork.api.logs import access, write_access_lines
from graftwork.api.metrics import HttpMetrics
from graftwork.api.problems import CLIENT_CLOSED, problem_response
from graftwork.errors import GraftworkError

UNKNOWN_ROUTE = "unknown"
REQUEST_ID = b"x-request-id"
_SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")

logger = logging.getLogger("graftwork.api")


class RequestContext:
    """Give every request an id and a clock, and leave one access line and one count behind.

    `scope["state"]` gets `request_id` and `started` (seconds of `time.perf_counter`). A sane `X-Request-ID` is kept,
    and every answer carries the id. Whatever escapes the application is logged with its traceback and answered with
    a problem that shows nothing of it.
    """

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; what is no request passes untouched."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = request_id_of(scope["headers"])
        scope.setdefault("state", {}).update(request_id=request_id, started=started)
        status = CLIENT_CLOSED
        answering = False

        async def stamp(message: Message) -> None:
            nonlocal status, answering
            if message["type"] == "http.response.start":
                answering = True
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID, request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, stamp)
        except Exception:
            logger.exception("unexpected error", extra={"request_id": request_id})
            if not answering:
                await problem_response(GraftworkError(""), request_id)(scope, receive, stamp)
        finally:
            route = getattr(scope.get("route"), "path", UNKNOWN_ROUTE)
            served = [(request_id, time.perf_counter() - started)]
            leave_traces(self.metrics, route, scope["method"], status, served)


def leave_traces(
    metrics: HttpMetrics, route: str, method: str, status: int, served: Sequence[tuple[str, float]]
) -> None:
    """Count requests that were served alike, each an id and its seconds, and write their access lines."""
    metrics.observe(route, method, status, [seconds for _, seconds in served])
    if served and access.isEnabledFor(logging.INFO):
        write_access_lines(route, method[:16], int(status), served)


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The id that was sent with a request if it is sane, else a new one."""
    for name, value in headers:
        if name == REQUEST_ID and _SANE_ID.fullmatch(value):
            return str(value, "ascii")
    return new_request_id()


def new_request_id() -> str:
    """An id that no other request has."""
    return f"{getrandbits(128):032x}"
