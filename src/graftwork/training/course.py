"""What a run of the loop is given, and what follows from it: its length, its rate, the layers of each epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graftwork.training.domains.unfreezing import lowest_trained
from graftwork.training.schedule import rate_factor

if TYPE_CHECKING:
    from graftwork.training.progress import Progress
    from graftwork.training.runs import Run
    from graftwork.training.start import Start


@dataclass(frozen=True)
class Course:
    """See the module.

    Attributes:
        start: what it starts from.
        learning_rate: highest rate.
        progress: told of every step.
        run: where checkpoints and measurements go.
        stage: the name of this part of the run.
    """

    start: Start
    learning_rate: float
    progress: Progress
    run: Run
    stage: str

    @property
    def steps_an_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return math.ceil(len(self.start.train.labels) / self.start.settings.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.steps_an_epoch * self.start.settings.epochs

    @property
    def trunk(self) -> list[str]:
        """Identities of the activations it trains and is judged on."""
        return [self.start.train.activations.identity, self.start.validation.activations.identity]

    def rate(self, step: int) -> float:
        """Factor on the highest rate at a step, counted from 0."""
        settings = self.start.settings
        return rate_factor(step, self.total_steps, warmup_share=settings.warmup_share, shape=settings.schedule)

    def epoch_of(self, steps: int) -> int:
        """The epoch, counted from 1, in which the last of so many steps is."""
        return -(-steps // self.steps_an_epoch)

    def lowest_trained(self, epoch: int) -> int | None:
        """The lowest layer that is trained in an epoch; None when all are in each."""
        if not self.start.unfreezing:
            return None
        epochs, layers, first = self.start.settings.epochs, self.start.backbone.num_layers, self.start.attachment.split
        return lowest_trained(epoch, epochs=epochs, layers=layers, first=first)
