"""A tuner over what training starts from: opened for a fine-tuning run, and for a search for its learning rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from graftwork.training.precision import accelerator_for
from graftwork.training.randomness import own_randomness
from graftwork.training.sharding import sharded
from graftwork.training.tuner import Tuner

if TYPE_CHECKING:
    from graftwork.training.start import Start


@contextmanager
def open_tuner(
    start: Start, *, learning_rate: float, rate: Callable[[int], float], note: Callable[[str], None]
) -> Iterator[Tuner]:
    """A tuner for the block, whose random numbers are its own and follow from the seed.

    Args:
        start: what it starts from.
        learning_rate: highest rate of AdamW.
        rate: factor on that at a step, counted from 0.
        note: told when memory does not suffice.
    """
    device, settings = start.backbone.device, start.settings
    with (
        own_randomness(start.seed, device),
        accelerator_for(device, settings.precision) as accelerator,
        sharded(start.backbone, start.attachment, settings) as tuned,
    ):
        yield Tuner(
            start.backbone,
            tuned,
            start.weight,
            start.bias,
            settings=settings,
            learning_rate=learning_rate,
            rate=rate,
            objective=start.objective,
            accelerator=accelerator,
            note=note,
            game=start.game,
            anchor=start.anchor,
        )
