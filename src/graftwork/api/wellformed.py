"""Bodies as nearly all clients send them, checked by hand; of every other one the pydantic models are the judges.

What these functions accept, the models accept with the same meaning; what they do not, they give back unjudged. So no
mistake is ever told from here, and nothing is taken that the documented shapes refuse.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeGuard

from pydantic_core import from_json

from graftwork.api.limits import ServerLimits
from graftwork.api.ranking import Function
from graftwork.api.wanted import Wanted

_CLASSIFY = frozenset({"model", "models", "inputs", "top_k", "task"})
_FUNCTIONS: tuple[Function, ...] = ("softmax", "sigmoid", "none")
_LONGEST_NAME = 256
_JSON = (b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8")


def plain_json(headers: Iterable[tuple[bytes, bytes]], most_bytes: int) -> bool:
    """Whether headers say that the body is nothing but JSON, and no longer than this if they tell its length."""
    plain = False
    for name, value in headers:
        if name == b"content-type":
            plain = value in _JSON
        elif name == b"content-encoding" or (
            name == b"content-length" and not (value.isdigit() and int(value) <= most_bytes)
        ):
            return False
    return plain


def classify_body(raw: bytes, limits: ServerLimits) -> Wanted | None:
    """What a body of `/v1/classify` wants; None leaves it to the models."""
    body = _object(raw)
    if body is not None and len(body) == 2 and _is_name(name := body.get("model")) and "inputs" in body:
        # As nearly all are: a model, and its texts.
        texts = _texts(body["inputs"], limits)
        return None if texts is None else Wanted((name,), False, texts)
    if body is None or not body.keys() <= _CLASSIFY:
        return None
    several = "models" in body
    names = body.get("models") if several else [body.get("model")]
    texts = _texts(body.get("inputs"), limits)
    top_k = body.get("top_k")
    if texts is None or not _is_count(top_k) or not isinstance(names, list) or ("model" in body and several):
        return None
    if not all(_is_name(name) for name in names) or ("task" in body and (several or not _is_name(body["task"]))):
        return None
    if several and (
        not 0 < len(names) <= limits.models or len(set(names)) < len(names) or len(names) * len(texts) > limits.inputs
    ):
        return None
    return Wanted(tuple(names), several, texts, top_k, task=body.get("task"))


def predict_body(raw: bytes, limits: ServerLimits, reference: str) -> Wanted | None:
    """What a body of `/predict` wants of the model in its path; None leaves it to the models."""
    body = _object(raw)
    texts = None if body is None else _texts(body.get("inputs"), limits)
    if body is None or texts is None:
        return None
    parameters = body.get("parameters")
    if parameters is None:
        return Wanted((reference,), False, texts)
    if type(parameters) is not dict:
        return None
    top_k, function = parameters.get("top_k"), parameters.get("function_to_apply")
    if not _is_count(top_k) or not (function is None or function in _FUNCTIONS):
        return None
    return Wanted((reference,), False, texts, top_k, function)


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        body = from_json(raw, cache_strings="keys")
    except ValueError:
        return None
    return body if type(body) is dict else None


def _texts(value: object, limits: ServerLimits) -> list[str] | None:
    texts: list[Any] = value if type(value) is list else [value]
    if not 0 < len(texts) <= limits.inputs:
        return None
    for text in texts:
        if type(text) is not str or len(text) > limits.text_characters or "\x00" in text:
            return None
    return texts


def _is_name(value: object) -> TypeGuard[str]:
    return type(value) is str and 0 < len(value) <= _LONGEST_NAME and "\x00" not in value


def _is_count(value: object) -> bool:
    return value is None or (type(value) is int and value >= 1)
