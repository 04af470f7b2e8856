"""Reading a request's body: bounded, timed, strict, and able to say where it is wrong.

FastAPI's own body parameters are not used: they read a body of any size whole, and know no limits while validating.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers

from graftwork.api.limits import ServerLimits
from graftwork.api.problems import BodyTimeout, MediaTypeUnsupported, invalid_body
from graftwork.errors import RequestInvalid, RequestTooLarge

Body = TypeVar("Body", bound=BaseModel)


async def read_body(
    request: Request,
    shape: type[Body],
    limits: ServerLimits,
    choose: Callable[[Mapping[str, Any]], type[Body]] | None = None,
) -> Body:
    """Read and validate a JSON body.

    Args:
        request: whose body it is.
        shape: what it shall be.
        limits: the server's bounds.
        choose: what else it may be, by its members, when it is not of `shape`.

    Raises:
        MediaTypeUnsupported: it is not said to be plain JSON.
        RequestTooLarge: body, list or text over the limit; told by the header, or as soon as the limit is passed.
        BodyTimeout: it took too long to arrive.
        RequestInvalid: not JSON, not UTF-8, or not of `shape`, with every mistake.
    """
    _check_headers(request.headers, limits)
    async with body_in_time(limits):
        raw = await receive_body(request, limits)
    try:
        return shape.model_validate_json(raw, context=limits)
    except ValidationError:
        return _validate_slowly(raw, shape, limits, choose)


@asynccontextmanager
async def body_in_time(limits: ServerLimits) -> AsyncIterator[None]:
    """Stop waiting for a body when its time is over.

    Raises:
        BodyTimeout: it is.
    """
    try:
        async with asyncio.timeout(limits.body_seconds):
            yield
    except TimeoutError as error:
        raise BodyTimeout(
            f"the body did not arrive within {limits.body_seconds:g} s", remedy="Send it at once, or in smaller parts."
        ) from error


def _check_headers(headers: Headers, limits: ServerLimits) -> None:
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        said = f"is said to be {media_type[:80]!r}" if media_type else "has no Content-Type"
        raise MediaTypeUnsupported(f"the body {said}", remedy="Send JSON with 'Content-Type: application/json'.")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise MediaTypeUnsupported("the body is compressed", remedy="Send it without Content-Encoding.")
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > limits.body_bytes:
        raise _too_large(limits)


async def receive_body(request: Request, limits: ServerLimits) -> bytes:
    """The bytes of a body.

    Raises:
        RequestTooLarge: as soon as the limit is passed.
    """
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limits.body_bytes:
            raise _too_large(limits)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(limits: ServerLimits) -> RequestTooLarge:
    return RequestTooLarge(
        f"the body is larger than {limits.body_bytes} bytes", remedy="Send the texts in several requests."
    )


def _validate_slowly(
    raw: bytes, shape: type[Body], limits: ServerLimits, choose: Callable[[Mapping[str, Any]], type[Body]] | None
) -> Body:
    """Parse again with a parser that keeps what is not Unicode, so that the mistake's place can be named."""
    try:
        content: Any = json.loads(raw.decode("utf-8", "surrogateescape"))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        message = f"the body is not JSON: {error.msg} at {where}" if raw.strip() else "the body is empty"
        raise RequestInvalid(message, remedy="Send one JSON object.") from None
    except (RecursionError, ValueError):
        raise RequestInvalid(
            "the body is nested too deeply or holds a number that is too long", remedy="Send one flat JSON object."
        ) from None
    if choose is not None and isinstance(content, dict):
        shape = choose(content)
    try:
        return shape.model_validate(content, context=limits)
    except ValidationError as error:
        raise invalid_body(error) from None
