"""How a long computation tells where it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the stages of a run; the command line draws them."""

    def stage(self, name: str, total: int | None) -> None:
        """A new stage begins: `total` steps of it, None when unknown."""
        ...

    def advance(self, steps: int = 1, **metrics: float) -> None:
        """So many steps of the current stage are done; `metrics` are the newest values of loss and the like."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line of its own."""
        ...


class Silent:
    """A progress that nobody watches."""

    def stage(self, name: str, total: int | None) -> None:
        """Ignore it."""

    def advance(self, steps: int = 1, **metrics: float) -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""
