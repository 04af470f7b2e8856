"""Answers that are known, given where the request was read: no task, no framework, no waiting.

A known text costs no network; then what is spent on a request is all that its answer costs. What cannot be answered at
once, for whatever reason, is left to the application, which alone says what is wrong with a request.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import NamedTuple

from graftwork.api.classifying import Classes, bodies
from graftwork.api.deps import Serving, identity_of
from graftwork.api.direct import CLASSIFY
from graftwork.api.metrics import HttpMetrics
from graftwork.api.middleware import leave_traces
from graftwork.api.wanted import Wanted
from graftwork.api.wellformed import classify_body
from graftwork.errors import GraftworkError
from graftwork.serving.request import Ask

logger = logging.getLogger("graftwork.api")

_TARGET = CLASSIFY.encode()
_TEXTS = 32  # of more than these the event loop would be kept for long


class Request(NamedTuple):
    """A plain request, all of which is here.

    Attributes:
        headers: names in small letters, and values.
        body: all of it.
        request_id: its id.
        started: `time.perf_counter()` when it was read.
    """

    headers: Sequence[tuple[bytes, bytes]]
    body: bytes
    request_id: str
    started: float


class Instant:
    """Answers requests of `POST /v1/classify` for one adapter whose vectors of all texts are in memory.

    Args:
        serving: the live parts of the application.
        metrics: counts the requests answered here.
    """

    line = b"POST %b HTTP/1.1\r\n" % _TARGET
    """With which these requests begin."""

    def __init__(self, serving: Serving, metrics: HttpMetrics) -> None:
        self._serving = serving
        self._metrics = metrics

    def takes(self, method: bytes, target: bytes) -> bool:
        """Whether requests of this method and target may be answered here."""
        return target == _TARGET and method == b"POST"

    def answers(self, requests: Sequence[Request]) -> list[bytes | None]:
        """For each request the headers and the body of its answer, of status 200; None: ask the application.

        Each is answered as if it were alone: when one fails, the others do not.
        """
        try:
            return self._answers(requests)
        except Exception as error:
            failure = error
        if len(requests) > 1:
            return [answer for request in requests for answer in self.answers([request])]
        if not isinstance(failure, GraftworkError):  # those are told by the application
            logger.error("unexpected error", exc_info=failure, extra={"request_id": requests[0].request_id})
        return [None]

    def _answers(self, requests: Sequence[Request]) -> list[bytes | None]:
        answers: list[bytes | None] = [None] * len(requests)
        known = self._known(requests)
        contents = bodies([classes for _, classes in known])
        now = time.perf_counter()
        served = []
        for (index, _), content in zip(known, contents, strict=True):
            _, _, request_id, started = requests[index]
            answers[index] = b"content-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\n\r\n%b" % (
                len(content),
                request_id.encode(),
                content,
            )
            served.append((request_id, now - started))
        leave_traces(self._metrics, CLASSIFY, "POST", 200, served)
        return answers

    def _known(self, requests: Sequence[Request]) -> list[tuple[int, Classes]]:
        """Those that can be answered, by their index."""
        serving = self._serving
        read = [
            (index, wanted, identity_of(request.headers))
            for index, request in enumerate(requests)
            if (wanted := self._wanted(request.body)) is not None
        ]
        versions = serving.lookups.known_answering([(wanted.models[0], who.scope) for _, wanted, who in read])
        asked = [
            (index, wanted, version, Ask(who.tenant or version.tenant, version.base, version.digest))
            for (index, wanted, who), version in zip(read, versions, strict=True)
            if version is not None
        ]
        answers = serving.engine.classify_known([ask for *_, ask in asked], [wanted.texts for _, wanted, *_ in asked])
        return [
            (index, Classes(version, answer, wanted, requests[index].started))
            for (index, wanted, version, _), answer in zip(asked, answers, strict=True)
            if answer is not None and wanted.task in (None, *(task.name for task in answer.tasks))
        ]

    def _wanted(self, body: bytes) -> Wanted | None:
        wanted = classify_body(body, self._serving.limits)
        return None if wanted is None or wanted.several or len(wanted.texts) > _TEXTS else wanted
