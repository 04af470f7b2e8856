"""The frame of every run that is published: progress drawn, a run that can be resumed, measurements, one version."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import typer

from graftwork.cli.clock import process_start
from graftwork.cli.estimating import cost_record

if TYPE_CHECKING:
    from graftwork.cli.progress import DrawnProgress
    from graftwork.cli.training.ground import Ground
    from graftwork.cli.training.request import TrainRequest
    from graftwork.registry.artifact import Artifact
    from graftwork.registry.versions import AdapterVersion
    from graftwork.training.runs import Run
    from graftwork.wiring import Services


class Outcome(Protocol):
    """What a run gives."""

    @property
    def artifact(self) -> Artifact:
        """What can be published."""

    @property
    def record(self) -> dict[str, Any]:
        """Facts of the run, seconds by stage among them."""


Result = TypeVar("Result", bound=Outcome)


@dataclass(frozen=True)
class RunOptions:
    """How a run is kept and told of.

    Attributes:
        resume: go on with the unfinished run of this name.
        log: JSON lines file for measurements; by default they are in the run's folder while it runs.
        tensorboard: folder for TensorBoard.
        quiet: draw nothing.
        since: when the command began (`time.perf_counter`), from which the first optimizer step is timed; now by
            default.
    """

    resume: bool = False
    log: Path | None = None
    tensorboard: Path | None = None
    quiet: bool = False
    since: float | None = None

    @classmethod
    def of(cls, asked: TrainRequest) -> RunOptions:
        """As the command line says."""
        return cls(asked.resume, asked.log, asked.tensorboard, quiet=asked.as_json, since=process_start())


def run_and_publish(
    opened: Services,
    ground: Ground,
    options: RunOptions,
    *,
    source: str,
    judged_on: str | None = None,
    load: Callable[[DrawnProgress], Callable[[DrawnProgress, Run], Result]],
) -> tuple[AdapterVersion, Result]:
    """Train, with progress drawn, and publish the result as the next version of a name.

    Of several processes the first draws and publishes; the others exit when it is trained.

    Args:
        opened: the installation.
        ground: what the run stands on.
        options: how it is kept and told of.
        source: where the rows are from.
        judged_on: where the rows it is judged on are from; None where they are held out of the others.
        load: loads libraries and the model, and gives what trains it.
    """
    from graftwork.cli.progress import DrawnProgress
    from graftwork.training.processes import launched, leave

    started = time.perf_counter()
    first = launched().first
    with DrawnProgress(quiet=options.quiet or not first) as progress, ExitStack() as stack:
        progress.stage("loading the base model", None)
        train = load(progress)
        loaded = time.perf_counter()
        run = _open_run(opened, ground.name, options, progress, stack, measured=first)
        trained = train(progress, run)
        leave()
        if not first:
            raise typer.Exit  # what all processes have made is published by the first
        record = {
            "seconds": {"load": round(loaded - started, 3), **trained.record["seconds"]},
            "total_seconds": round(time.perf_counter() - started, 3),
            "rows_from": source,
            **({} if judged_on is None else {"judged_on": judged_on}),
        }
        if run.seconds_to_first_step is not None:
            record["seconds_to_first_step"] = run.seconds_to_first_step
        record |= cost_record(opened, ground.base, ground.config, trained.record, trained.artifact.manifest)
        run.keep()
        published = opened.catalog.publish(
            ground.name,
            trained.artifact,
            record=record,
            expected_latest=ground.expected_latest,
            # The run's id as the key: a run that was killed when it had published publishes no second time.
            idempotency_key=run.id,
        )
        run.finish()
    return published, trained


def _open_run(
    opened: Services, name: str, options: RunOptions, progress: DrawnProgress, stack: ExitStack, *, measured: bool
) -> Run:
    from graftwork.training.interruption import on_sigterm
    from graftwork.training.metrics import open_metrics
    from graftwork.training.runs import METRICS, open_run

    wish = stack.enter_context(on_sigterm())
    run = stack.enter_context(
        open_run(
            opened.settings.home,
            name,
            resume=options.resume,
            interruption=wish,
            since=options.since,
            note=progress.note,
        )
    )
    if measured:
        log = options.log or (run.folder / METRICS if run.folder else None)
        run.metrics = open_metrics(name, log=log, tensorboard=options.tensorboard, note=progress.note)
        stack.callback(run.metrics.close)
    return run
