"""Partial fine-tuning: the upper layers of the base are trained themselves, the lower ones stay frozen."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from graftwork.adaptation.strategy import StrategySettings
from graftwork.adaptation.weights import WeightsAttachment, WeightSettings, attach_weights, restore_weights
from graftwork.errors import Problem, SettingsInvalid

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone

# To say which layers stay frozen.
WAYS = ("freeze_until", "freeze_ratio", "freeze_layers")


def contradiction(given: Sequence[str]) -> str:
    """What is wrong with giving these of `WAYS` at once; nothing of at most one."""
    return f"contradicts itself: give one of {' and '.join(given)}" if len(given) > 1 else ""


class PartialSettings(WeightSettings):
    """Which layers are trained, by one of three ways to say it; the upper half by default.

    With `freeze_layers=auto` short trials say how many, within a budget of operations: seconds at a rate that is stated
    and not measured, so that the same settings give the same choice on a machine of any speed.

    Attributes:
        freeze_until: name or index of a layer; everything below it stays frozen.
        freeze_ratio: share of the layers that stay frozen, from the bottom.
        freeze_layers: number of layers that stay frozen, from the bottom; with 0 all are trained, embeddings not;
            `auto` tries several.
        budget: seconds that the trials of `auto` may take at `gflops`.
        gflops: billions of operations in matrix products that count as a second of `budget`.
        store: how the tuned weights are stored (see `WeightSettings`).
    """

    freeze_until: int | str | None = None
    freeze_ratio: float | None = Field(None, ge=0, lt=1)
    freeze_layers: Annotated[int, Field(ge=0)] | Literal["auto"] | None = None
    budget: float = Field(60.0, gt=0, allow_inf_nan=False)
    gflops: float = Field(50.0, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one_way(self) -> PartialSettings:
        told = contradiction([name for name in WAYS if getattr(self, name) is not None])
        if told:
            raise ValueError(told)
        return self


class Partial:
    """Train the upper layers of the base and whatever comes above them, and the head."""

    name = "partial"
    title = "partial fine-tuning"
    settings_type: type[StrategySettings] = PartialSettings
    learning_rate = 1e-4

    def attach(self, backbone: Backbone, settings: PartialSettings, *, seed: int) -> WeightsAttachment:
        """Put float32 copies in the place of the upper layers' parameters.

        Raises:
            SettingsInvalid: if the settings name no layer of this base, or leave none to train.
        """
        split = first_tuned(settings, backbone.layer_names)
        return attach_weights(backbone, lowest=split, split=split, encoding=settings.store)

    def restore(self, backbone: Backbone, files: Mapping[str, bytes]) -> WeightsAttachment:
        """Put stored weights in place."""
        return restore_weights(backbone, files)


def first_tuned(settings: PartialSettings, names: tuple[str, ...]) -> int:
    """Index of the lowest layer that is trained, of layers with these names.

    Raises:
        SettingsInvalid: if the settings name none of them, or leave none to train.
    """
    count = len(names)
    if settings.freeze_until is not None:
        places = {name: index for index, name in enumerate(names)} | {index: index for index in range(count)}
        if settings.freeze_until not in places:
            near = difflib.get_close_matches(str(settings.freeze_until), names, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise SettingsInvalid(
                "partial fine-tuning's settings do not fit this base model",
                problems=[
                    Problem("partial.freeze_until", f"{settings.freeze_until!r} is no layer of this base{meant}")
                ],
                remedy=f"Its layers are {', '.join(names)}, or 0 to {count - 1}.",
            )
        return places[settings.freeze_until]
    if settings.freeze_layers == "auto":
        raise SettingsInvalid(
            "partial.freeze_layers=auto is decided by the trials of a training run, and this is none",
            remedy=f"Give a number of layers, 0 to {count - 1}.",
        )
    if settings.freeze_layers is not None:
        frozen, setting = settings.freeze_layers, "freeze_layers"
    elif settings.freeze_ratio is not None:
        frozen, setting = round(settings.freeze_ratio * count), "freeze_ratio"
    else:
        return count // 2
    if frozen >= count:
        raise SettingsInvalid(
            "partial fine-tuning's settings do not fit this base model",
            problems=[
                Problem(f"partial.{setting}", f"freezes all {count} layers of this base; nothing is left to train")
            ],
            remedy=f"Freeze at most {count - 1} layers, or take feature-extraction.",
        )
    return frozen
