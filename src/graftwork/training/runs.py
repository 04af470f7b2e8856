"""The folder of an unfinished run: who it is, how far it came, and who may write to it.

    GRAFT_HOME/runs/TENANT/NAME/
      run.json              the run's id and identity: rows, settings, base, versions
      STAGE.safetensors     the newest checkpoint of a stage, such as `lora`
      metrics.jsonl         what was measured on the way

`run.json` is written with the first checkpoint and removed last: without it nothing can be resumed.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from graftwork.errors import (
    BlobDamaged,
    Conflict,
    Problem,
    SettingsInvalid,
    TrainingInterrupted,
)
from graftwork.registry.durable import is_abandoned, storage_error, write_file
from graftwork.registry.reference import Reference
from graftwork.training.interruption import Interruption
from graftwork.training.metrics import Metrics
from graftwork.training.processes import launched
from graftwork.training.stage import SUFFIX, Stage

_RUN = "run.json"
METRICS = "metrics.jsonl"

Identity = Mapping[str, str]


class Run:
    """What surrounds the training of one name: its folder, the wish to stop, where measurements go.

    Without a folder nothing is kept, and nothing can be resumed. Of several processes only the first has one.

    Args:
        folder: the run's folder; the caller holds its lock (see `open_run`).
        resume: go on from what is there.
        interruption: the wish to stop.
        metrics: where measurements go.
        since: when the command began (`time.perf_counter`), from which the first optimizer step is timed; now by
            default.

    Attributes:
        id: of this run; the same after it was resumed.
        folder: as given; None in other processes than the first.
        interruption: as given.
        metrics: as given.
        resume: as given.
        seconds_to_first_step: when the first optimizer step of this process was done; None before.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        resume: bool = False,
        interruption: Interruption | None = None,
        metrics: Metrics | None = None,
        since: float | None = None,
    ) -> None:
        self.id = uuid.uuid4().hex
        self.folder = folder if launched().first else None
        self.interruption = interruption or Interruption()
        self.metrics = metrics or Metrics()
        self.resume = resume
        self.seconds_to_first_step: float | None = None
        self._since = time.perf_counter() if since is None else since
        self._resumed = False
        self._kept = False
        self._identity: Identity = {}
        self._note: Callable[[str], None] = _silent

    def begin(self, identity: Identity, note: Callable[[str], None]) -> None:
        """Look for an unfinished run of the name, and take it up or say that it is there.

        Args:
            identity: everything that decides the result, by name.
            note: told what was found, and later what could not be kept.

        Raises:
            SettingsInvalid: if the folder is not that of a run, or the run to resume is another; all differences are
                listed.
            BlobDamaged: if the run to resume cannot be read.
        """
        self._identity, self._note = identity, note
        found = self._found() if self.folder is not None else None
        if self.folder is not None and found is not None and self.resume:
            _refuse_differences(self.folder, found["identity"], identity)
            self.id, self._resumed, self._kept = found["id"], True, True
            return
        if self.resume:
            note("there is nothing to resume: training begins at the beginning")
        elif found is not None:
            note("an unfinished run of this name was found; it is given up for this one (--resume would go on with it)")
        self.metrics.clear()

    @property
    def resumed(self) -> bool:
        """Whether it goes on with an earlier run."""
        return self._resumed

    @property
    def temporary_folder(self) -> Path | None:
        """Where large temporary files have room; None for the system's own folder."""
        return self.folder.parent if self.folder is not None else None

    def keep(self) -> None:
        """Make the run one that can be resumed, in place of whatever was unfinished before.

        Raises:
            StorageError: if its folder cannot be written.
        """
        if self.folder is None or self._kept:
            return
        try:
            self._remove_checkpoints(self.folder)
        except OSError as error:
            raise storage_error(f"{self.folder} cannot be cleared", error) from error
        begun = datetime.now(UTC).isoformat(timespec="seconds")
        content = {"format": 1, "id": self.id, "begun": begun, "identity": dict(self._identity)}
        write_file(self.folder / _RUN, [json.dumps(content, indent=2).encode()], staging=self.folder)
        self._kept = True

    def stage(self, name: str, *, steps: int | None = None, seconds: float = 60.0) -> Stage:
        """The checkpoints of a part of the run.

        Args:
            name: of the part, such as a strategy's.
            steps: steps after which one is due, if that is to count.
            seconds: seconds after which one is due.
        """
        return Stage(self, name, steps=steps, seconds=seconds)

    def stepped(self) -> dict[str, float]:
        """An optimizer step is done; after the first, what is to be noted beside its measurements."""
        if self.seconds_to_first_step is not None:
            return {}
        self.seconds_to_first_step = round(time.perf_counter() - self._since, 3)
        return {"seconds_to_first_step": self.seconds_to_first_step}

    def note(self, text: str) -> None:
        """Tell the user something."""
        self._note(text)

    def stop_if_asked(self, where: str = "") -> None:
        """End the run here if somebody wants that.

        Raises:
            TrainingInterrupted: if so.
        """
        if self.interruption.requested:
            kept = "Give the same command with --resume to go on from there." if self._kept else "Nothing was kept yet."
            raise TrainingInterrupted(f"training was asked to stop and did{where}; nothing was published", remedy=kept)

    def finish(self) -> None:
        """Remove the folder: the run is published, or has nothing that could be resumed."""
        self.metrics.close()
        if self.folder is None or not self.folder.is_dir():
            return
        try:
            self._remove_checkpoints(self.folder)
            for path in (self.folder / METRICS, self.folder / _RUN):
                path.unlink(missing_ok=True)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()
        except OSError as error:
            self.note(f"warning: {self.folder} could not be removed ({error.strerror})")

    def _found(self) -> dict[str, Any] | None:
        """The unfinished run's record; None when there is none."""
        assert self.folder is not None
        path = self.folder / _RUN
        if not path.is_file():
            self._refuse_foreign(self.folder)
            return None
        try:
            content = json.loads(path.read_bytes())
            if content["format"] == 1 and isinstance(content["id"], str) and isinstance(content["identity"], dict):
                found: dict[str, Any] = content
                return found
        except (OSError, ValueError, KeyError, TypeError):
            pass
        if not self.resume:
            return {}
        raise BlobDamaged(
            f"{path} is not the record of a training run", remedy="Train from the beginning, without --resume."
        )

    @staticmethod
    def _refuse_foreign(folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            strange = [folder]
        else:
            ours = (METRICS, *(path.name for path in folder.glob(f"*{SUFFIX}")))
            strange = sorted(p for p in folder.glob("*") if p.name not in ours and not is_abandoned(p.name))
        if strange:
            raise SettingsInvalid(
                f"{folder} is not the folder of a training run: it has no {_RUN}",
                problems=[Problem(str(path), "is in the way") for path in strange[:20]],
                remedy="Move it elsewhere; training writes its checkpoints there.",
            )

    @staticmethod
    def _remove_checkpoints(folder: Path) -> None:
        for path in folder.glob("*"):
            if path.name.endswith(SUFFIX) or is_abandoned(path.name):
                path.unlink(missing_ok=True)


@contextmanager
def open_run(
    home: Path,
    name: str,
    *,
    resume: bool = False,
    interruption: Interruption | None = None,
    metrics: Metrics | None = None,
    since: float | None = None,
    note: Callable[[str], None],
) -> Iterator[Run]:
    """The run of a name in an installation, locked for the block.

    When another process is training the same name, or the folder cannot be written, the run keeps nothing.

    Args:
        home: the installation's folder.
        name: `tenant/name`.
        resume: go on with the unfinished run, if there is one.
        interruption: the wish to stop.
        metrics: where measurements go.
        since: when the command began (`time.perf_counter`); now by default.
        note: told when nothing can be kept.

    Raises:
        Conflict: if the run to resume is just running.
    """
    if not launched().first:
        yield Run(resume=resume, interruption=interruption, metrics=metrics, since=since)
        return
    from filelock import FileLock, Timeout

    reference = Reference.parse_bare(name)
    folder = home / "runs" / reference.tenant / reference.name
    lock = FileLock(folder.parent / f".{reference.name}.lock")
    keeps: Path | None = folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        if resume:
            raise Conflict(
                f"{reference.bare} is just being trained by another process", remedy="Wait for it, or stop it first."
            ) from None
        note(f"{reference.bare} is just being trained by another process too; this run keeps no checkpoints")
        keeps = None
    except OSError as error:
        note(f"warning: {folder} cannot be written ({error.strerror}); this run keeps no checkpoints")
        keeps = None
    try:
        yield Run(keeps, resume=resume, interruption=interruption, metrics=metrics, since=since)
    finally:
        lock.release()


def _refuse_differences(folder: Path, found: Identity, now: Identity) -> None:
    problems = [
        Problem(name, f"is {_shown(now.get(name))}, but was {_shown(found.get(name))} in the unfinished run")
        for name in dict.fromkeys([*now, *found])
        if now.get(name) != found.get(name)
    ]
    if problems:
        raise SettingsInvalid(
            f"the unfinished run in {folder} is another one, so it cannot be resumed",
            problems=problems,
            remedy="Give what it was begun with, or leave --resume out to begin anew.",
        )


def _shown(value: str | None) -> str:
    """A value in a sentence; of a digest its beginning is enough."""
    if value is None:
        return "not there"
    return value[:16] if re.fullmatch("[0-9a-f]{64}", value) else value


def _silent(_: str) -> None:
    pass
