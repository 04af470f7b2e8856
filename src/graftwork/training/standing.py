"""Where a fine-tuning run stands, beside the state of its tuner: what it has found so far, as checkpoints hold it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graftwork.data.findings import Finding
from graftwork.errors import SettingsInvalid
from graftwork.training.checkpoint import Checkpoint
from graftwork.training.history import History
from graftwork.training.randomness import RandomState

if TYPE_CHECKING:
    from graftwork.training.domains.game import DomainGame
    from graftwork.training.tuner import Tuner


@dataclass
class Standing:
    """What a run has found so far.

    Attributes:
        history: every evaluation.
        warnings: divergence and negative transfer.
        best: values of all parameters at the best evaluation.
        best_logits: of the validation rows then, float32 `[validation rows, classes]`.
        start_logits: the same before the first step.
        finished: there is nothing more to train.
    """

    history: History = field(default_factory=History)
    warnings: list[Finding] = field(default_factory=list)
    best: list[Tensor] = field(default_factory=list)
    best_logits: Tensor = field(default_factory=lambda: torch.empty(0))
    start_logits: Tensor = field(default_factory=lambda: torch.empty(0))
    finished: bool = False

    def checkpoint(self, tuner: Tuner, *, trunk: Sequence[str], seconds: float, device: torch.device) -> Checkpoint:
        """Everything: the last state unless it is finished, the best, the random state, the history.

        Args:
            tuner: of the run.
            trunk: identities of the activations that it trains and is judged on.
            seconds: that it has taken.
            device: of the backbone.
        """
        state = tuner.state()
        tensors = {} if self.finished else dict(state.tensors)
        tensors |= {f"best.{place}": value.cpu() for place, value in enumerate(self.best)}
        tensors |= {"best_logits": self.best_logits, "start_logits": self.start_logits}
        random = RandomState.now(device)
        tensors |= {f"random.{name}": value for name, value in random.tensors.items()}
        content: dict[str, Any] = {
            **state.state,
            "trunk": list(trunk),
            "random": random.content,
            "history": self.history.to_json(),
            "warnings": [warning.model_dump(mode="json") for warning in self.warnings],
            "finished": self.finished,
            "seconds": seconds,
        }
        return Checkpoint(tensors, content)

    @classmethod
    def of(
        cls,
        found: Checkpoint,
        tuner: Tuner,
        *,
        trunk: Sequence[str],
        device: torch.device,
        game: DomainGame | None,
    ) -> Standing:
        """Where a checkpoint was made; the tuner, the random generators and the game are put there too.

        Raises:
            SettingsInvalid: if it was made over other activations.
        """
        tensors, state = found.tensors, found.state
        if state["trunk"] != list(trunk):
            raise SettingsInvalid(
                "the checkpoint was made over other activations of the trunk",
                remedy="Train from the beginning, without --resume.",
            )
        if state["finished"]:
            tuner.steps = state["steps"]
            if game is not None:
                game.load(state["game"])
        else:
            tuner.load(found)
        RandomState(_under("random.", tensors), state["random"]).restore(device)
        return cls(
            history=History.from_json(state["history"]),
            warnings=[Finding.model_validate(warning) for warning in state["warnings"]],
            best=[tensors[f"best.{place}"].to(device) for place in range(len(tuner.parameters))],
            best_logits=tensors["best_logits"],
            start_logits=tensors["start_logits"],
            finished=state["finished"],
        )


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
