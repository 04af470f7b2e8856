"""Errors as RFC 9457 problems.

Every answer that is not a success is `application/problem+json`: the stable code of `graftwork.errors`, one sentence
of what was wrong, the remedy, and all single mistakes with JSON pointers. It never holds a traceback, a path of this
machine or a text that was sent.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import ErrorDetails, to_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from graftwork.errors import (
    ArtifactError,
    DataError,
    GraftworkError,
    ModelError,
    NotFound,
    Problem,
    RequestError,
    RequestInvalid,
    ServiceUnavailable,
    StorageError,
)

MEDIA_TYPE = "application/problem+json"
LISTED = 100  # mistakes that one answer lists at most; the rest are counted
_IN_ONE_LINE = 5  # of them in the line that says everything
CLIENT_CLOSED = 499  # nginx's status for a client that left; nobody receives it, logs and metrics count it

logger = logging.getLogger("graftwork.api")

# These tell of the server's own state, so their words may name a file of this machine.
_OURS = (ArtifactError, StorageError, ModelError, DataError, ServiceUnavailable)
_PATH = re.compile(r"""(?<![\w.#/])(?:file:/|/|[A-Za-z]:\\)[^\s'",;)]+""")


class RouteUnknown(NotFound):
    """No such URL."""

    code = "route-unknown"


class MethodNotAllowed(RequestError):
    """The URL exists, but not with this method."""

    code = "method-not-allowed"
    status = 405


class MediaTypeUnsupported(RequestError):
    """The body is not said to be plain JSON."""

    code = "media-type-unsupported"
    status = 415


class BodyTimeout(RequestError):
    """The body did not arrive in time."""

    code = "body-timeout"
    status = 408


class RequestTimeout(RequestError):
    """The headers did not arrive in time."""

    code = "request-timeout"
    status = 408


def pointer(location: Iterable[str | int]) -> str:
    """A place in the body as the fragment form of a JSON pointer.

    Example:
        >>> pointer(["inputs", 3])
        '#/inputs/3'
    """
    steps = (str(step)[:80].replace("~", "~0").replace("/", "~1") for step in location)
    return "".join(["#", *("/" + step for step in steps)])


def invalid_body(error: ValidationError) -> RequestInvalid:
    """All mistakes that pydantic found in a body as one error, with JSON pointers and nothing of what was sent."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return _invalid("the body is not of the documented shape", [_body_problem(item) for item in details])


def _body_problem(item: ErrorDetails) -> Problem:
    return Problem(pointer(item["loc"]), _words(item))


def _words(item: ErrorDetails) -> str:
    if item["type"] == "model_type":
        return "should be an object"
    return item["msg"][:1].lower() + item["msg"][1:]


def _invalid(message: str, problems: list[Problem]) -> RequestInvalid:
    if len(problems) > LISTED:
        problems = [*problems[:LISTED], Problem("", f"and {len(problems) - LISTED} more mistakes")]
    return RequestInvalid(message, problems=problems, remedy="Mend the places listed; /openapi.json has the shape.")


def problem_content(error: GraftworkError, request_id: str) -> dict[str, Any]:
    """The members of the problem, in the order in which they are read.

    `message` says everything in one line: OpenAI's clients show that member of an error, and nothing else.
    """
    if type(error) is GraftworkError:
        error = GraftworkError("the server failed", remedy="Tell its operator the request id.")
    clean = _without_paths if isinstance(error, _OURS) else str
    return {
        "type": f"urn:graftwork:problem:{error.code}",
        "title": error.code.replace("-", " ").capitalize(),
        "status": error.status,
        "detail": clean(error.message),
        "instance": f"urn:graftwork:request:{request_id}",
        "code": error.code,
        "remedy": clean(error.remedy),
        "errors": [
            {"pointer" if p.where.startswith("#") else "where": clean(p.where), "detail": clean(p.what)}
            for p in error.problems
        ],
        "message": clean(_one_line(error)),
        "request_id": request_id,
    }


def _one_line(error: GraftworkError) -> str:
    return ". ".join(filter(None, ["; ".join([error.message, *map(str, error.problems[:_IN_ONE_LINE])]), error.remedy]))


def _without_paths(text: str) -> str:
    return _PATH.sub("(path)", text)


def problem_headers(error: GraftworkError, message: str) -> dict[str, str]:
    """Headers that go with a problem.

    `X-Error-Message` is where Hugging Face's clients look for the words of an error.
    """
    words = " ".join(message.encode("ascii", "replace").decode("ascii").split())
    headers = {"x-error-message": "".join(c for c in words if c.isprintable())[:500]}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, BodyTimeout):
        headers["connection"] = "close"
    return headers


def problem_response(error: GraftworkError, request_id: str) -> Response:
    """The answer that tells of `error`."""
    content = problem_content(error, request_id)
    headers = problem_headers(error, content["message"])
    return Response(to_json(content), status_code=error.status, headers=headers, media_type=MEDIA_TYPE)


def internal(error: object) -> GraftworkError:
    """An error as a client may be told of it: what is not ours is the server's fault, and told so."""
    if isinstance(error, GraftworkError):
        return error
    unexpected = GraftworkError(f"{type(error).__name__}: {error}")
    unexpected.__cause__ = error if isinstance(error, BaseException) else None
    return unexpected


def told(error: GraftworkError, request_id: str) -> None:
    """Log an error that a client is told of, when it is the server's."""
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        trace = error if type(error) is GraftworkError else None
        logger.error("%s: %s", error.code, error, exc_info=trace, extra={"request_id": request_id})


def _answer(request: Request, error: GraftworkError) -> Response:
    request_id: str = request.scope["state"]["request_id"]
    told(error, request_id)
    return problem_response(error, request_id)


async def _graftwork(request: Request, error: Exception) -> Response:
    assert isinstance(error, GraftworkError)
    return _answer(request, error)


async def _parameters(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [Problem(" ".join(str(step) for step in item["loc"])[:80], _words(item)) for item in error.errors()]
    return _answer(request, _invalid("the parameters are not as documented", problems))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    found: GraftworkError
    if error.status_code == HTTPStatus.NOT_FOUND:
        found = RouteUnknown("no such URL", remedy="GET /openapi.json lists the URLs.")
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "another method")
        found = MethodNotAllowed(f"{request.method} is not allowed here", remedy=f"Use {allowed}.")
    else:
        found = GraftworkError(str(error.detail))
    response = _answer(request, found)
    response.headers.update(error.headers or {})
    return response


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED)


def install(app: FastAPI) -> None:
    """Make every error that a route can raise a problem."""
    app.add_exception_handler(GraftworkError, _graftwork)
    app.add_exception_handler(RequestValidationError, _parameters)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _gone)
