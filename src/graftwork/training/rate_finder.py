"""A search for a learning rate that leaves no trace.

The rate grows geometrically over a few steps (Smith, arXiv 1506.01186); where the smoothed loss is least it is about to
diverge, and a tenth of that rate trains well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from graftwork.errors import SettingsInvalid
from graftwork.training.progress import Progress
from graftwork.training.start import Start
from graftwork.training.tuner import Diverged
from graftwork.training.tuning import open_tuner

_STEPS = 60
_LOWEST, _HIGHEST = 1e-6, 1.0
_SMOOTHING = 0.9  # share of the mean that each step keeps
_GIVE_UP = 4.0  # times the least smoothed loss


@dataclass(frozen=True)
class FoundRate:
    """What the search found.

    Attributes:
        rate: to train with.
        tried: rates, in order.
        losses: the smoothed loss at each.
    """

    rate: float
    tried: tuple[float, ...]
    losses: tuple[float, ...]


def find_rate(start: Start, *, progress: Progress) -> FoundRate:
    """Look for the highest rate that still trains; parameters and random generators are as before afterwards.

    Args:
        start: what training starts from; the schedule in its settings is not used, nor are validation rows.
        progress: told of every step.

    Raises:
        SettingsInvalid: if the loss is not finite at the lowest rate already.
    """
    rates = np.geomspace(_LOWEST, _HIGHEST, _STEPS).tolist()
    settings, train = start.settings, start.train
    losses: list[float] = []
    progress.stage("looking for a learning rate", _STEPS)
    free = replace(start, game=None, anchor=None)
    with open_tuner(free, learning_rate=1.0, rate=lambda step: rates[step], note=progress.note) as tuner:
        before = tuner.values()
        batches = train.batches_of_all_epochs(settings.batch_size, seed=start.seed)
        mean = 0.0
        try:
            while len(losses) < _STEPS and (not losses or losses[-1] <= _GIVE_UP * min(losses)):
                rows = next(batches)
                loss = tuner.step(train.activations, rows, train.targets[rows]).loss
                mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
                losses.append(mean / (1 - _SMOOTHING ** (len(losses) + 1)))
                progress.advance(1, loss=losses[-1], learning_rate=rates[tuner.steps - 1])
        except Diverged:
            pass
        finally:
            tuner.restore(before)
            for parameter in tuner.parameters:
                parameter.grad = None
    if not losses:
        raise SettingsInvalid(
            "no learning rate was found: the training loss is not finite from the beginning",
            remedy="Give fine_tuning.learning_rate, or take another base model.",
        )
    best = rates[int(np.argmin(losses))] / 10
    return FoundRate(float(f"{best:.1e}"), tuple(rates[: len(losses)]), tuple(losses))
