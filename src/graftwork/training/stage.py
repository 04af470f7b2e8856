"""When a part of a run writes its checkpoints, and what becomes of the run when one cannot be written."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from graftwork.errors import StorageError
from graftwork.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint

if TYPE_CHECKING:
    from graftwork.training.runs import Run

SUFFIX = ".safetensors"
_SHARE = 0.05  # of a run's time that checkpoints at evaluations may take


class Stage:
    """The checkpoints of one part of a run, the newest alone."""

    def __init__(self, run: Run, name: str, *, steps: int | None, seconds: float) -> None:
        self._run = run
        self._path = run.folder / f"{name}{SUFFIX}" if run.folder else None
        self._steps = steps
        self._seconds = seconds
        self._last_step = 0
        self._last_time = time.monotonic()
        self._cost = 0.0
        self._complained = False

    def load(self) -> Checkpoint | None:
        """The newest checkpoint of the run that is resumed; None when there is none.

        Raises:
            BlobDamaged: if it cannot be used.
        """
        if self._path is None or not self._run.resumed or not self._path.exists():
            return None
        return read_checkpoint(self._path)

    def due(self, step: int, *, handy: bool = False) -> bool:
        """Whether so many steps or seconds have passed since the last one.

        Args:
            step: steps that are done.
            handy: a good moment; then enough time has passed when the last one's writing was a small share of it.
        """
        if self._path is None:
            return False
        passed = time.monotonic() - self._last_time
        enough = self._steps is not None and step - self._last_step >= self._steps
        return enough or passed >= self._seconds or (handy and passed >= self._cost / _SHARE)

    def save(self, step: int, make: Callable[[], Checkpoint]) -> None:
        """Write a checkpoint in place of the last; when that fails the last one stays and the run goes on.

        Args:
            step: steps that are done.
            make: gives it.
        """
        if self._path is None:
            return
        began = time.monotonic()
        try:
            self._run.keep()
            write_checkpoint(self._path, make())
        except StorageError as error:
            if not self._complained:
                self._run.note(
                    f"warning: no checkpoint could be written at step {step}: {error.message}. Training goes on; "
                    f"what was kept before is still there. {error.remedy}"
                )
            self._complained = True
        self._last_step, self._last_time = step, time.monotonic()
        self._cost = self._last_time - began
