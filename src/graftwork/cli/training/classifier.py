"""Training and publishing a classifier: of one task or several, on the base or an adapter, anew or going on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graftwork.cli.training.publishing import RunOptions, run_and_publish

if TYPE_CHECKING:
    from collections.abc import Callable

    from graftwork.backbones.backbone import Backbone
    from graftwork.cli.progress import DrawnProgress
    from graftwork.cli.training.ground import Ground
    from graftwork.cli.training.rows import Given
    from graftwork.registry.versions import AdapterVersion
    from graftwork.training.job import Trained
    from graftwork.training.runs import Run
    from graftwork.wiring import Services

    Training = Callable[[DrawnProgress, Run], Trained]


def train_and_publish(
    opened: Services, ground: Ground, given: Given, options: RunOptions | None = None
) -> tuple[AdapterVersion, Trained]:
    """Train on labelled rows and publish the result as the next version of a name.

    Args:
        opened: the installation.
        ground: what the run stands on.
        given: its rows.
        options: how it is kept and told of.
    """

    def load(progress: DrawnProgress) -> Training:
        from graftwork.cli.compatibility import tell_compatibility
        from graftwork.training.processes import join, launched

        base = opened.bases.resolve(ground.base)
        tell_compatibility(base, given.rows, progress)

        if launched().count > 1:
            from graftwork.backbones.device import choose_device

            join(choose_device(opened.settings.device))
        backbone = opened.backbone(base, bits=ground.config.base_dtype)
        return _training(backbone, ground, given)

    return run_and_publish(
        opened,
        ground,
        options or RunOptions(),
        source=given.rows.source,
        judged_on=None if given.test is None else given.test.source,
        load=load,
    )


def _training(backbone: Backbone, ground: Ground, given: Given) -> Training:
    """The training that the ground and the rows are for."""
    from graftwork.training.continuing import continue_training
    from graftwork.training.job import train
    from graftwork.training.tasks import train_tasks

    config, continued = ground.config, ground.continued
    if given.tasks:
        return lambda progress, run: train_tasks(
            backbone, given.tasks, test=given.task_tests, config=config, progress=progress, run=run
        )
    if continued is not None:
        return lambda progress, run: continue_training(
            backbone,
            continued,
            given.rows,
            ancestors=ground.ancestors,
            replay=given.replay,
            sources=given.sources,
            config=config,
            progress=progress,
            run=run,
        )
    return lambda progress, run: train(
        backbone,
        given.rows,
        test=given.test,
        config=config,
        ancestors=ground.ancestors,
        adapt_to=given.adapt_to,
        max_bytes=ground.max_bytes,
        progress=progress,
        run=run,
    )
