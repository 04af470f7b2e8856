"""The short way for classes of texts: past the framework, for requests as nearly all clients send them.

It answers what is well-formed. Everything else (another media type, a body in pieces, any mistake in it) it hands on
untouched, with what it has read, to the framework's routes, which alone say what is wrong with a request.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import NamedTuple

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graftwork.api.answers import Answer
from graftwork.api.body import body_in_time
from graftwork.api.classifying import Call, classify, predict
from graftwork.api.deps import Serving, identity_of
from graftwork.api.metrics import HttpMetrics
from graftwork.api.middleware import leave_traces, request_id_of
from graftwork.api.problems import CLIENT_CLOSED, problem_response, told
from graftwork.api.wanted import Wanted
from graftwork.api.wellformed import classify_body, plain_json, predict_body
from graftwork.errors import GraftworkError

CLASSIFY = "/v1/classify"
PREDICT = "/predict/{tenant}/{name}"

logger = logging.getLogger("graftwork.api")


class _Route(NamedTuple):
    path: str
    reference: str
    answer: Callable[[Serving, Call, Wanted], Awaitable[Answer]]


class Direct:
    """Answers well-formed requests for classes; everything else goes to `app`.

    Args:
        app: the whole application.
        serving: the live parts behind it.
        metrics: counts the requests answered here.
    """

    def __init__(self, app: ASGIApp, serving: Serving, metrics: HttpMetrics) -> None:
        self._app = app
        self._serving = serving
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        route = _route(scope)
        if route is None or not plain_json(scope["headers"], self._serving.limits.body_bytes):
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        call = Call(identity_of(scope["headers"]), receive, request_id_of(scope["headers"]), started)
        status = CLIENT_CLOSED
        wanted: Wanted | None = None
        try:
            first = await self._first(receive)
            wanted = self._wanted(route, first)
            if wanted is not None:
                answer = await route.answer(self._serving, call, wanted)
                status = HTTPStatus.OK
                await _send(answer, call.request_id, send)
        except GraftworkError as error:
            told(error, call.request_id)
            status = error.status
            await _send_problem(error, call, scope, send)
        except ClientDisconnect:
            status = CLIENT_CLOSED
        except Exception:
            logger.exception("unexpected error", extra={"request_id": call.request_id})
            if status == CLIENT_CLOSED:
                status = GraftworkError.status
                await _send_problem(GraftworkError(""), call, scope, send)
        else:
            if wanted is None:
                await self._app(scope, _replayed(first, receive), send)
                return
        leave_traces(self._metrics, route.path, "POST", status, [(call.request_id, time.perf_counter() - started)])

    async def _first(self, receive: Receive) -> Message:
        """The first part of the body.

        Raises:
            BodyTimeout: it does not come in time.
        """
        step = receive().__await__()
        try:
            next(step)
        except StopIteration as here_already:
            message: Message = here_already.value
            return message
        # Nearly always it has come with the headers. Only otherwise a clock is set.
        step.close()
        async with body_in_time(self._serving.limits):
            return await receive()

    def _wanted(self, route: _Route, first: Message) -> Wanted | None:
        if first["type"] != "http.request" or first.get("more_body", False):
            return None
        raw = first["body"]
        if len(raw) > self._serving.limits.body_bytes:
            return None
        if route.path == CLASSIFY:
            return classify_body(raw, self._serving.limits)
        return predict_body(raw, self._serving.limits, route.reference)


def _route(scope: Scope) -> _Route | None:
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    path: str = scope["path"]
    if path == CLASSIFY:
        return _CLASSIFY
    if path.startswith("/predict/") and not scope["query_string"]:
        reference = path[len("/predict/") :]
        if reference.count("/") == 1 and reference[0] != "/" and reference[-1] != "/":
            return _Route(PREDICT, reference, predict)
    return None


_CLASSIFY = _Route(CLASSIFY, "", classify)


def _replayed(first: Message, receive: Receive) -> Receive:
    waiting: list[Message] = [first]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


async def _send(answer: Answer, request_id: str, send: Send) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(answer.body)),
        *answer.headers,
        (b"x-request-id", request_id.encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


async def _send_problem(error: GraftworkError, call: Call, scope: Scope, send: Send) -> None:
    response = problem_response(error, call.request_id)
    response.headers["x-request-id"] = call.request_id
    await response(scope, call.receive, send)
