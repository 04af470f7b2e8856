"""Gradual unfreezing: the top layers first, one group more an epoch (Howard & Ruder, arXiv 1801.06146)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graftwork.training.start import Start

_FALL = 2.6  # from each group to the one below it, as in the paper


def lowest_trained(epoch: int, *, epochs: int, layers: int, first: int = 0) -> int:
    """Index of the lowest layer that is trained in an epoch; -1 when all is, embeddings among it.

    The layers are dealt out over the epochs, so that all of them are trained in the last; with more epochs than layers
    one is added an epoch until there are no more.

    Args:
        epoch: counted from 1.
        epochs: of the run at most.
        layers: of the backbone.
        first: the lowest layer that is adapted at all.

    Example:
        >>> [lowest_trained(epoch, epochs=4, layers=6) for epoch in (1, 2, 3, 4)]
        [4, 3, 1, -1]
    """
    groups = min(epochs, layers - first)
    if epoch >= groups:
        return -1
    return layers - math.ceil((layers - first) * epoch / groups)


def unfrozen_gradually(start: Start) -> Start:
    """A start whose layers are unfrozen one group after the other, each at a rate 2.6 times below the one above it.

    A rate that already falls from layer to layer stays as it was asked for. Nothing stops the run before every layer
    had its epoch.
    """
    settings, layers = start.settings, start.backbone.num_layers
    groups = min(settings.epochs, layers - start.attachment.split) or 1
    changes: dict[str, object] = {"patience": max(settings.patience, groups)}
    if settings.layer_decay == 1.0:
        changes["layer_decay"] = round(_FALL ** (-groups / max(1, layers - start.attachment.split)), 6)
    return replace(start, settings=settings.model_copy(update=changes), unfreezing=True)
