"""Requests that come in one round of the event loop, answered together."""

from __future__ import annotations

import asyncio
from typing import Protocol

from graftwork.api.instant import Instant, Request

_MOST = 64  # requests that are answered at once: the first of them wait for the last


class Waiting(Protocol):
    """A connection that waits for an answer."""

    loop: asyncio.AbstractEventLoop

    def answered(self, answer: bytes | None) -> None:
        """Take the answer; None when the application has to be asked."""
        ...


class Rounds:
    """Gathers requests until the event loop has read all that has come; then they are answered.

    In company each costs a part of what it costs alone. When only one has come, it waits for nobody.

    Args:
        instant: answers them.
    """

    def __init__(self, instant: Instant) -> None:
        self._instant = instant
        self._waiting: list[tuple[Waiting, Request]] = []

    def add(self, connection: Waiting, request: Request) -> None:
        """Take a request; its connection is told the answer."""
        if not self._waiting:
            connection.loop.call_soon(self.answer)
        self._waiting.append((connection, request))
        if len(self._waiting) >= _MOST:
            self.answer()

    def answer(self) -> None:
        """Answer all that wait."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            answers = self._instant.answers([request for _, request in waiting])
            for (connection, _), answer in zip(waiting, answers, strict=True):
                connection.answered(answer)
