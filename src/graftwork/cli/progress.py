"""Training's progress, drawn."""

from __future__ import annotations

from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeftColumn

from graftwork.cli.console import err, styled


class DrawnProgress:
    """A bar per stage on standard error, with the newest metrics and the time left; nothing when it is no terminal.

    Example:
        >>> with DrawnProgress(quiet=True) as progress:
        ...     progress.stage("fitting", 10)
        ...     progress.advance(10, loss=0.5)
    """

    def __init__(self, *, quiet: bool = False) -> None:
        console = err()
        self._console = console
        self._quiet = quiet
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeLeftColumn(compact=True),
            TextColumn("{task.fields[metrics]}", markup=False),
            console=console,
            disable=quiet or not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._metrics: dict[str, float] = {}

    def stage(self, name: str, total: int | None) -> None:
        """Finish the bar before and begin a new one."""
        self._finish()
        self._metrics = {}
        self._task = self._progress.add_task(name, total=total, metrics="")

    def advance(self, steps: int = 1, **metrics: float) -> None:
        """Move the bar on and show the newest metrics."""
        if self._task is None:
            return
        self._metrics.update(metrics)
        shown = "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in self._metrics.items())
        self._progress.update(self._task, advance=steps, metrics=shown)

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        if not self._quiet:
            self._console.print(styled(text))

    def _finish(self) -> None:
        if self._task is not None:
            task = self._progress.tasks[self._progress.task_ids.index(self._task)]
            self._progress.update(self._task, total=task.total or 1, completed=task.total or 1)
            self._task = None

    def __enter__(self) -> DrawnProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        self._progress.stop()
