"""Asking a run to stop, from a signal or from another thread."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Interruption:
    """A wish that a run should end soon; the run looks at it after every step and every batch of an evaluation.

    Example:
        >>> wish = Interruption()
        >>> wish.request()
        >>> wish.requested
        True
    """

    def __init__(self) -> None:
        self.requested = False

    def request(self) -> None:
        """Ask the run to write a checkpoint and to end."""
        self.requested = True


@contextmanager
def on_sigterm() -> Iterator[Interruption]:
    """The wish that the first SIGTERM makes within the block; a second one ends the process at once.

    Only the main thread of a program may use it.
    """
    wish = Interruption()

    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL

    def ask(*_: object) -> None:
        wish.request()
        signal.signal(signal.SIGTERM, before)

    signal.signal(signal.SIGTERM, ask)
    try:
        yield wish
    finally:
        signal.signal(signal.SIGTERM, before)
