"""Pictures and recordings sent as files of a form, as browsers and curl send them: multipart/form-data (RFC 7578).

curl -F model=acme/emoji -F image=@cat.png http://127.0.0.1:8080/v1/classify
"""

from __future__ import annotations

from email.message import Message
from typing import Any

from fastapi import Request
from pydantic import ValidationError

from graftwork.api import schemas
from graftwork.api.body import body_in_time, receive_body
from graftwork.api.limits import ServerLimits
from graftwork.api.problems import invalid_body
from graftwork.data.media import Media, Modality
from graftwork.errors import Problem, RequestInvalid

MEDIA_TYPE = "multipart/form-data"
FILES: tuple[Modality, ...] = ("image", "audio")
_FIELDS = ("model", "top_k", "task")


async def read_upload(request: Request, limits: ServerLimits) -> schemas.ClassifyRequest:
    """Read a form with the fields `model` and `top_k`, and one or more files named `image` or `audio`.

    Raises:
        RequestTooLarge: the body is over the limit.
        BodyTimeout: it took too long to arrive.
        RequestInvalid: it is no such form; every mistake is listed.
    """
    async with body_in_time(limits):
        raw = await receive_body(request, limits)
    boundary = _parameters(request.headers["content-type"]).get_param("boundary")
    if not isinstance(boundary, str) or not boundary:
        raise RequestInvalid("the form has no boundary", remedy="Let your HTTP library write the Content-Type.")
    content: dict[str, Any] = {"inputs": []}
    problems = []
    for name, data in _parts(raw, boundary.encode("latin-1", "replace")):
        kind = next((kind for kind in FILES if kind == name), None)
        if kind:
            content["inputs"].append(Media.of_bytes(data, kind, name=f"{kind} {len(content['inputs']) + 1}"))
        elif name in _FIELDS and name not in content:
            content[name] = data.decode("utf-8", "replace")
        else:
            problems.append(Problem(name, "is there twice" if name in content else "is no field of this form"))
    top_k = content.get("top_k", "")
    if top_k.isascii() and top_k.isdigit():
        content["top_k"] = int(top_k)
    if problems:
        fields = f"{', '.join((*_FIELDS, *FILES))}"
        raise RequestInvalid("the form has fields too many", problems=problems, remedy=f"Its fields are {fields}.")
    try:
        return schemas.ClassifyRequest.model_validate(content, context=limits)
    except ValidationError as error:
        raise invalid_body(error) from None


def _parts(raw: bytes, boundary: bytes) -> list[tuple[str, bytes]]:
    """Name and content of each part.

    Raises:
        RequestInvalid: the form is cut short, or a part has no name.
    """
    _, *rest = (b"\r\n" + raw).split(b"\r\n--" + boundary)
    if not rest or not rest[-1].startswith(b"--"):
        raise RequestInvalid("the form is cut short: its last boundary is missing", remedy="Send it again, whole.")
    found = []
    for number, part in enumerate(rest[:-1], start=1):
        head, blank, data = part.partition(b"\r\n\r\n")
        name = _parameters(_disposition(head)).get_param("name") if blank else None
        if not isinstance(name, str):
            raise RequestInvalid(f"part {number} of the form has no name", remedy="Name each part of the form.")
        found.append((name, data))
    return found


def _disposition(head: bytes) -> str:
    lines = (line.partition(b":") for line in head.split(b"\r\n"))
    return next((v.decode("utf-8", "replace") for k, _, v in lines if k.strip().lower() == b"content-disposition"), "")


def _parameters(value: str) -> Message:
    """A header whose parameters can be asked for."""
    message = Message()
    message["Content-Type"] = value.strip()
    return message
