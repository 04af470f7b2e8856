"""AdamW over a delta and a head: which parameters, at which rate, with which decay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from graftwork.adaptation.strategy import Attachment
    from graftwork.training.config import FineTuningSettings


@dataclass(frozen=True)
class Rate:
    """One line of the table of rates.

    Attributes:
        layer: `head`, `layer 5`, or `embeddings` for what lies below the first layer.
        parameters: numbers that are trained there.
        rate: the highest learning rate they see.
    """

    layer: str
    parameters: int
    rate: float


def parameter_groups(
    attachment: Attachment,
    head: Sequence[nn.Parameter],
    *,
    layers: int,
    settings: FineTuningSettings,
    learning_rate: float,
) -> list[dict[str, Any]]:
    """Groups for AdamW: one for each pair of rate and decay, `peak` being the highest rate of the group.

    A layer's rate is `layer_decay` times that of the layer above it, counted from the head (discriminative rates,
    Howard & Ruder, arXiv 1801.06146). Vectors (biases, norms, scales) do not decay. A parameter that is listed twice
    belongs to the first place it is listed at: in two groups it would be an error, twice in one it would be updated
    twice.

    Args:
        attachment: the delta in place.
        head: the head's parameters.
        layers: number of layers of the backbone.
        settings: decays.
        learning_rate: the head's highest rate.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter, depth in _unique(attachment, head, layers):
        peak = learning_rate * settings.layer_decay ** (layers - depth)
        decay = settings.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((peak, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": peak, "peak": peak, "weight_decay": decay}
        for (peak, decay), parameters in groups.items()
    ]


def rate_table(
    attachment: Attachment,
    head: Sequence[nn.Parameter],
    *,
    layers: int,
    settings: FineTuningSettings,
    learning_rate: float,
) -> list[Rate]:
    """The highest rate of each layer, the head first; layers without trained parameters are left out."""
    sizes: dict[int, int] = {}
    for parameter, depth in _unique(attachment, head, layers):
        sizes[depth] = sizes.get(depth, 0) + parameter.numel()
    names = {layers: "head", -1: "embeddings"}
    return [
        Rate(names.get(depth, f"layer {depth}"), size, learning_rate * settings.layer_decay ** (layers - depth))
        for depth, size in sorted(sizes.items(), reverse=True)
    ]


def _unique(attachment: Attachment, head: Sequence[nn.Parameter], layers: int) -> list[tuple[nn.Parameter, int]]:
    """Every trained parameter once, with its depth; the head is one above the top layer."""
    listed = [*zip(attachment.parameters(), attachment.depths(), strict=True), *((part, layers) for part in head)]
    unique: dict[int, tuple[nn.Parameter, int]] = {}
    for parameter, depth in listed:
        unique.setdefault(id(parameter), (parameter, depth))
    return list(unique.values())
