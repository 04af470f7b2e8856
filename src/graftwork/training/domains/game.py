"""Domain-adversarial training (Ganin et al., arXiv 1505.07818): features that a classifier of domains cannot use.

A small network learns to tell source from target by the pooled features. On the way back its gradient is turned around
before it reaches the delta, so that the delta learns to make the domains look alike while the head learns the labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from graftwork.data.findings import Finding

if TYPE_CHECKING:
    from graftwork.adaptation.strategy import Attachment
    from graftwork.training.activations import Activations

_STEEPNESS = 10.0  # of the ramp, as in the paper
_FEWEST_STEPS = 8
_TOLD_APART = 0.9
_EXPLODED = 3 * math.log(2)  # a classifier that always says one half has a loss of log 2


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return -ctx.factor * gradients[0], None


def reverse_gradient(features: Tensor, factor: float) -> Tensor:
    """The features as they are; on the way back their gradient times `-factor`."""
    reversed_features: Tensor = _Reversal.apply(features, factor)  # type: ignore[no-untyped-call]
    return reversed_features


def ramp(progress: float) -> float:
    """`2 / (1 + exp(-10 p)) - 1`: from 0 at the start of training to nearly 1 at its end.

    Example:
        >>> ramp(0.0), round(ramp(0.5), 3), round(ramp(1.0), 4)
        (0.0, 0.987, 0.9999)
    """
    return 2 / (1 + math.exp(-_STEEPNESS * progress)) - 1


class DomainGame:
    """The classifier of domains and its part of each step.

    Args:
        attachment: the delta in place.
        target: the unlabelled rows.
        features: pooled features of source rows before training `[rows, width]`: their mean and spread scale what the
            classifier sees.
        hidden: units of its hidden layer.
        reversal: factor on the reversed gradient at the end of the ramp.
        total_steps: of the run.
        seed: of its first weights and of the order of the target rows.
        device: where the backbone is.
    """

    def __init__(
        self,
        attachment: Attachment,
        target: Activations,
        features: NDArray[np.floating],
        *,
        hidden: int,
        reversal: float,
        total_steps: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self._attachment = attachment
        self._target = target
        self._reversal = reversal
        self._total_steps = total_steps
        self._seed = seed
        centre = features.mean(axis=0, dtype=np.float64)
        spread = float(np.sqrt(((features - centre) ** 2).mean())) or 1.0
        self._centre = torch.from_numpy(centre.astype(np.float32)).to(device)
        self._spread = spread
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._network = nn.Sequential(nn.Linear(features.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, 1))
        self._network.to(device)
        self._rows: list[int] = []
        self._step = 0
        self._now = [0.0, 0.0]
        self._losses: list[float] = []
        self._accuracies: list[float] = []

    def parameters(self) -> list[nn.Parameter]:
        """Of the classifier."""
        return list(self._network.parameters())

    def begin_step(self, step: int, *, rows: int) -> None:
        """Draw as many target rows as the step has source rows; a function of seed and step alone."""
        count = len(self._target.lengths)
        places = range(step * rows, (step + 1) * rows)
        orders = {epoch: self._order(epoch) for epoch in {place // count for place in places}}
        self._rows = [orders[place // count][place % count] for place in places]
        self._step = step
        self._now = [0.0, 0.0]

    def loss(self, vectors: Tensor, places: Sequence[int]) -> Tensor:
        """This part's share of the mean binary cross-entropy over all source and target rows of the step.

        Args:
            vectors: pooled vectors of the source rows `[rows, width]`, with gradients.
            places: which rows of the step they are.
        """
        theirs = self._target.vectors([self._rows[place] for place in places], self._attachment)
        scaled = (torch.cat([vectors, theirs]) - self._centre) / self._spread
        reversed_features = reverse_gradient(scaled, self._reversal * ramp(self._step / self._total_steps))
        logits = self._network(reversed_features).squeeze(1)
        domain = torch.zeros_like(logits)
        domain[len(vectors) :] = 1.0
        loss = binary_cross_entropy_with_logits(logits.float(), domain.float(), reduction="sum") / (2 * len(self._rows))
        self._now[0] += float(loss.detach())
        self._now[1] += float(((logits > 0) == (domain > 0)).sum()) / (2 * len(self._rows))
        return loss

    def step_done(self) -> None:
        """Keep what the step measured."""
        self._losses.append(self._now[0])
        self._accuracies.append(self._now[1])

    def measured(self) -> dict[str, float]:
        """Of the last step: the classifier's loss and accuracy, and the factor on its reversed gradient."""
        return {
            "domain_loss": self._losses[-1],
            "domain_accuracy": self._accuracies[-1],
            "reversal": self._reversal * ramp(self._step / self._total_steps),
        }

    def findings(self) -> list[Finding]:
        """Whether one side has lost the game, judged by the last quarter of the steps."""
        last = max(_FEWEST_STEPS, len(self._losses) // 4)
        if len(self._losses) < _FEWEST_STEPS:
            return []
        loss, accuracy = (float(np.mean(values[-last:])) for values in (self._losses, self._accuracies))
        if loss > _EXPLODED or not math.isfinite(loss):
            return [
                Finding(
                    code="adversarial-exploded",
                    severity="warning",
                    message=f"the adversarial game exploded: the domain classifier's loss was {loss:.2f} in the last "
                    f"{last} steps, where guessing has {math.log(2):.2f}",
                    count=last,
                    remedy="Lower domains.reversal or fine_tuning.learning_rate.",
                )
            ]
        if accuracy >= _TOLD_APART:
            return [
                Finding(
                    code="adversarial-collapsed",
                    severity="warning",
                    message=f"the adversarial game collapsed: the domain classifier was still right on {accuracy:.0%} "
                    f"of the rows in the last {last} steps, so the features of the domains were not made alike",
                    count=last,
                    remedy="Train for more epochs, raise domains.reversal, or take another --adaptation.",
                )
            ]
        return []

    def told(self) -> str:
        """Where the game ended, in words."""
        last = max(1, len(self._accuracies) // 4)
        accuracy = float(np.mean(self._accuracies[-last:])) if self._accuracies else math.nan
        return f"at the end the domain classifier was right on {accuracy:.0%} of the rows"

    def state(self) -> dict[str, Any]:
        """What it measured, for a checkpoint; its parameters are the tuner's."""
        return {"losses": self._losses, "accuracies": self._accuracies}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._losses, self._accuracies = list(state["losses"]), list(state["accuracies"])

    def _order(self, epoch: int) -> list[int]:
        random = np.random.default_rng((self._seed, 7, epoch))
        order: list[int] = random.permutation(len(self._target.lengths)).tolist()
        return order
