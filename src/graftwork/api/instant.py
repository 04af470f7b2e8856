"""Answers that are known, given where the request was read: no task, no framework, no waiting.

A known text costs no network; then what is spent on a request is all that its answer costs. What cannot be answered at
once, for whatever reason, is left to the application, which alone says what is wrong with a request.
"""

from __future__ import annotations

import logging
import time

from starlette.types import Scope

from graftwork.api.classifying import classes_body
from graftwork.api.deps import Serving, identity_of
from graftwork.api.direct import CLASSIFY
from graftwork.api.metrics import HttpMetrics
from graftwork.api.middleware import leave_trace, request_id_of
from graftwork.api.wellformed import classify_body
from graftwork.errors import GraftworkError

logger = logging.getLogger("graftwork.api")

_TARGET = CLASSIFY.encode()
_TEXTS = 32  # of more than these the event loop would be kept for long


class Instant:
    """Answers requests of `POST /v1/classify` for one adapter whose vectors of all texts are in memory.

    Args:
        serving: the live parts of the application.
        metrics: counts the requests answered here.
    """

    def __init__(self, serving: Serving, metrics: HttpMetrics) -> None:
        self._serving = serving
        self._metrics = metrics

    def takes(self, method: bytes, target: bytes) -> bool:
        """Whether requests of this method and target may be answered here."""
        return target == _TARGET and method == b"POST"

    def answer(self, scope: Scope, body: bytes, started: float) -> bytes | None:
        """The headers and the body of the answer, of status 200; None when the application has to be asked.

        Args:
            scope: of the request, with its headers.
            body: all of it.
            started: `time.perf_counter()` when the request was read.
        """
        try:
            return self._answer(scope, body, started)
        except GraftworkError:
            return None  # told by the application
        except Exception:
            logger.exception("unexpected error", extra={"request_id": request_id_of(scope)})
            return None

    def _answer(self, scope: Scope, body: bytes, started: float) -> bytes | None:
        serving = self._serving
        wanted = classify_body(body, serving.limits)
        if wanted is None or wanted.several or len(wanted.texts) > _TEXTS:
            return None
        identity = identity_of(scope)
        version = serving.lookups.known_answering(wanted.models[0], identity.scope)
        if version is None:
            return None
        tenant = identity.tenant or version.tenant
        answer = serving.engine.classify_known(tenant, version.base, version.digest, wanted.texts)
        if answer is None:
            return None
        content = classes_body(version, answer, wanted, started)
        request_id = request_id_of(scope)
        leave_trace(self._metrics, CLASSIFY, "POST", request_id, 200, time.perf_counter() - started)
        return (
            f"content-type: application/json\r\ncontent-length: {len(content)}\r\nx-request-id: {request_id}\r\n\r\n"
        ).encode() + content
