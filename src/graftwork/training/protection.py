"""What keeps a model that goes on from forgetting: a penalty that pulls its parameters towards where they started.

    loss + strength / 2 * sum_i importance_i * (parameter_i - start_i)^2

With an importance of one it is L2-SP (Li et al., arXiv 1802.01483); with the Fisher information of the task before it
is elastic weight consolidation (Kirkpatrick et al., arXiv 1612.00796, equation 3). The Fisher information is divided by
its mean, so that a strength means the same for models of any size and for both penalties.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from graftwork.errors import SettingsInvalid

Protection = Literal["none", "ewc", "l2-sp", "replay"]
PENALISED: tuple[Protection, ...] = ("ewc", "l2-sp")
STRENGTHS: dict[str, float] = {"ewc": 0.1, "l2-sp": 1.0}
"""By protection; from a few runs on MiniLM (docs/forgetting.md)."""


class ForgettingSettings(BaseModel):
    """How a model that goes on is kept from forgetting.

    Attributes:
        protection: `ewc` pulls each parameter towards where it started by the Fisher information of what was learned
            before, `l2-sp` all of them alike, `replay` learns old rows again (`--replay`), `none` does nothing. By
            default `replay` where old rows are given, else `none`.
        strength: of the penalty of `ewc` or `l2-sp`; found for each of them by default.
        fisher_rows: rows from which Fisher information is estimated at most.
        keep_fisher: store the Fisher information beside the adapter, for whoever goes on with it with `ewc`; an adapter
            that was made with `ewc` always has it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    protection: Protection | None = None
    strength: float | None = Field(None, gt=0, allow_inf_nan=False)
    fisher_rows: int = Field(200, ge=1, le=100_000)
    keep_fisher: bool = False

    @property
    def penalised(self) -> bool:
        """Whether a penalty is added to the loss."""
        return self.protection in PENALISED

    @property
    def keeps_fisher(self) -> bool:
        """Whether Fisher information is stored beside the adapter."""
        return self.keep_fisher or self.protection == "ewc"


@dataclass(frozen=True)
class Anchor:
    """What the penalty of a run is made of, beside the parameters it starts from.

    Attributes:
        strength: the factor on it.
        importance: of each parameter, in the order of the attachment's and then the head's weight and bias, float32 of
            their shapes; None for one each.
    """

    strength: float
    importance: Sequence[Tensor] | None = None

    @classmethod
    def of(cls, settings: ForgettingSettings, fisher: Sequence[Tensor] | None) -> Anchor | None:
        """The anchor that settings ask for; None for none.

        Args:
            settings: which penalty.
            fisher: Fisher information of each parameter, for `ewc`.
        """
        if not settings.penalised:
            return None
        strength = settings.strength or STRENGTHS[str(settings.protection)]
        return cls(strength, None if fisher is None else relative(fisher))


def relative(fisher: Sequence[Tensor]) -> list[Tensor]:
    """Fisher information divided by its mean over all parameters; as it is where all of it is nought."""
    total = sum(float(part.double().sum()) for part in fisher)
    if total == 0:
        return list(fisher)
    mean = total / sum(part.numel() for part in fisher)
    return [part / mean for part in fisher]


class Penalty:
    """The penalty on parameters that are being trained; they stand at their start when it is made.

    Args:
        anchor: strength and importance.
        parameters: float32; a copy of their values is kept.
    """

    def __init__(self, anchor: Anchor, parameters: Sequence[Tensor]) -> None:
        self._strength = anchor.strength
        self._start = [parameter.detach().clone() for parameter in parameters]
        self._importance = (
            None
            if anchor.importance is None
            else [part.to(parameter.device) for part, parameter in zip(anchor.importance, parameters, strict=True)]
        )

    def add_gradients(self, parameters: Sequence[Tensor], *, scale: float = 1.0) -> float:
        """Add the penalty's gradient to that of each parameter; returns its value.

        Args:
            parameters: those it was made with, in the same order.
            scale: factor on the gradients that are there already (of a scaled loss).
        """
        value = 0.0
        with torch.no_grad():
            for place, (parameter, start) in enumerate(zip(parameters, self._start, strict=True)):
                difference = parameter.detach() - start
                pull = difference if self._importance is None else difference * self._importance[place]
                value += float((pull * difference).sum())
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad.add_(pull, alpha=self._strength * scale)
        return self._strength / 2 * value


def refuse_without_start(settings: ForgettingSettings) -> None:
    """Of an adapter that is trained anew on a base: what protects a task before has none to protect.

    `l2-sp` is not refused: it pulls towards the base's own weights.

    Raises:
        SettingsInvalid: if settings ask for it.
    """
    if settings.protection in ("ewc", "replay"):
        raise SettingsInvalid(
            f"forgetting.protection={settings.protection} protects what an adapter learned before, and none is gone on "
            "with",
            remedy="Say which adapter to go on with (--continue REF), or take forgetting.protection=l2-sp, which pulls "
            "towards the base model's own weights.",
        )
