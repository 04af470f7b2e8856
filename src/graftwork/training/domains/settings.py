"""How a run adapts to a domain without labels."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Method = Literal["none", "gradual-unfreezing", "adversarial", "self-training", "continued-pretraining"]
Adaptation = Literal["auto", "none", "gradual-unfreezing", "adversarial", "self-training", "continued-pretraining"]


class DomainSettings(BaseModel):
    """Settings of the ways to adapt to unlabelled rows.

    Attributes:
        confidence: calibrated probability from which self-training believes an answer.
        rounds: rounds of self-training at most.
        reversal: factor on the domain classifier's reversed gradient at the end of adversarial training's ramp.
        hidden: units of the domain classifier's hidden layer.
        pretraining_epochs: passes over all texts while masked tokens are learned to be guessed.
        mask_share: share of the tokens that are masked.
        permutations: of the test whether the two domains differ.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    confidence: float = Field(0.8, gt=0, lt=1)
    rounds: int = Field(3, ge=1, le=20)
    reversal: float = Field(1.0, gt=0, le=10)
    hidden: int = Field(64, ge=1, le=4096)
    pretraining_epochs: int = Field(2, ge=1, le=100)
    mask_share: float = Field(0.15, gt=0, lt=0.9)
    permutations: int = Field(200, ge=20, le=10_000)
