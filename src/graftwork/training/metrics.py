"""Where measurements of a run go beside the console: a JSON lines file, TensorBoard, MLflow, Weights & Biases."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from graftwork.errors import DependencyMissing
from graftwork.registry.durable import storage_error

if TYPE_CHECKING:
    from io import TextIOWrapper

    from accelerate.tracking import GeneralTracker

Values = Mapping[str, float]
PROJECT = "graftwork"


class Sink(Protocol):
    """Takes measurements."""

    def log(self, stage: str, step: int, values: Values) -> None:
        """Note what was measured at a step."""
        ...

    def clear(self) -> None:
        """Forget what an earlier run noted."""
        ...

    def rewind(self, stage: str, step: int) -> None:
        """Forget what was noted of a stage after this step: it will be measured again."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class Metrics:
    """Several sinks as one; none by default."""

    def __init__(self, sinks: Sequence[Sink] = ()) -> None:
        self._sinks = sinks

    def log(self, stage: str, step: int, values: Values) -> None:
        """Note what was measured at a step of a stage, such as `{"loss": 0.3}`."""
        for sink in self._sinks:
            sink.log(stage, step, values)

    def clear(self) -> None:
        """Forget what an earlier run noted."""
        for sink in self._sinks:
            sink.clear()

    def rewind(self, stage: str, step: int) -> None:
        """Forget what was noted of a stage after this step."""
        for sink in self._sinks:
            sink.rewind(stage, step)

    def close(self) -> None:
        """Write what is left."""
        for sink in self._sinks:
            sink.close()


class JsonLines:
    """One JSON object a line: `{"stage": "lora", "step": 3, "loss": 0.41, ...}`.

    A file that cannot be written ends the logging with a note, never the training.
    """

    def __init__(self, path: Path, note: Callable[[str], None]) -> None:
        self._path = path
        self._note = note
        self._file: TextIOWrapper | None = None
        self._broken = False

    def log(self, stage: str, step: int, values: Values) -> None:
        """Append a line, visible at once to whoever follows the file."""
        line = json.dumps({"stage": stage, "step": step, **values})
        self._write(lambda: self._opened().write(f"{line}\n"))

    def clear(self) -> None:
        """Remove the file."""
        self.close()
        self._write(lambda: self._path.unlink(missing_ok=True))

    def rewind(self, stage: str, step: int) -> None:
        """Leave out lines of later steps, and one that was cut short."""
        self.close()
        if self._path.is_file():
            lines = self._path.read_text("utf-8").splitlines()
            kept = [line for line in lines if _is_until(line, stage, step)]
            self._write(lambda: self._path.write_text("".join(f"{line}\n" for line in kept), "utf-8"))

    def close(self) -> None:
        """Close the file; it is opened again when there is more to say."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> TextIOWrapper:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8", buffering=1)
        return self._file

    def _write(self, write: Callable[[], object]) -> None:
        if self._broken:
            return
        try:
            write()
        except OSError as error:
            self._broken = True
            self._note(f"warning: {storage_error(f'{self._path} cannot be written', error).message}; logging ends")


class Tracked:
    """One of accelerate's trackers, started at the first measurement: it wants accelerate's state to be there."""

    def __init__(self, tracker: GeneralTracker) -> None:
        self._tracker = tracker
        self._started = False

    def log(self, stage: str, step: int, values: Values) -> None:
        """Log each value as `stage/name`."""
        if not self._started:
            self._tracker.start()
            self._started = True
        self._tracker.log({f"{stage}/{name}": float(value) for name, value in values.items()}, step=step)

    def clear(self) -> None:
        """Earlier runs stay beside this one there."""

    def rewind(self, stage: str, step: int) -> None:
        """What was logged cannot be taken back there; steps that are done again are logged again."""

    def close(self) -> None:
        """End its run."""
        if self._started:
            self._tracker.finish()
            self._started = False


def open_metrics(name: str, *, log: Path | None, tensorboard: Path | None, note: Callable[[str], None]) -> Metrics:
    """The sinks that options and environment ask for.

    MLflow is used when `MLFLOW_TRACKING_URI` is set and Weights & Biases when `WANDB_PROJECT` or `WANDB_API_KEY` is,
    where they are installed.

    Args:
        name: `tenant/name`, the run's name there.
        log: JSON lines file.
        tensorboard: folder for TensorBoard.
        note: told when logging ends early.

    Raises:
        DependencyMissing: if TensorBoard is asked for and not installed.
    """
    sinks: list[Sink] = [JsonLines(log, note)] if log is not None else []
    if tensorboard is not None:
        sinks.append(Tracked(_tensorboard(name, tensorboard)))
    if "MLFLOW_TRACKING_URI" in os.environ and _installed("mlflow"):
        from accelerate.tracking import MLflowTracker

        sinks.append(Tracked(MLflowTracker(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT), run_name=name)))
    if {"WANDB_PROJECT", "WANDB_API_KEY"} & os.environ.keys() and _installed("wandb"):
        from accelerate.tracking import WandBTracker

        sinks.append(Tracked(WandBTracker(os.environ.get("WANDB_PROJECT", PROJECT), name=name)))
    return Metrics(sinks)


def _tensorboard(name: str, folder: Path) -> GeneralTracker:
    if not _installed("tensorboard"):
        raise DependencyMissing(
            "TensorBoard is not installed, so --tensorboard cannot be used",
            remedy="pip install 'graftwork[tensorboard]'",
        )
    from accelerate.tracking import TensorBoardTracker

    return TensorBoardTracker(name.replace("/", "-"), folder)


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _is_until(line: str, stage: str, step: int) -> bool:
    try:
        noted = json.loads(line)
        return noted["stage"] != stage or int(noted["step"]) <= step
    except (ValueError, KeyError, TypeError):
        return False
