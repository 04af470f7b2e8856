"""Running the backbone's network for the rows of a batch, with their adapters' updates in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from graftwork.serving.delta import Place
from graftwork.serving.stats import Meter
from graftwork.serving.teams import with_team
from graftwork.serving.updates import Plan, Updates

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone, Batch


ForwardFactory = Callable[["Backbone", Mapping[str, Place], Meter], "Forward"]


class Forward:
    """The backbone's own modules, run by PyTorch one after the other; for the engine's thread alone.

    Args:
        backbone: the backbone.
        places: its modules that can be adapted, from `adaptable`.
    """

    def __init__(self, backbone: Backbone, places: Mapping[str, Place]) -> None:
        self._backbone = backbone
        self._updates = Updates(places)

    def whole(self, batch: Batch, plan: Plan) -> Tensor:
        """The last hidden state `[rows, tokens, width]` in the backbone's dtype; an empty plan is the base alone."""
        with with_team():
            if not plan:
                return self._backbone.forward(batch)
            with self._updates.applied(plan):
                return self._backbone.forward(batch)

    def trunk(self, batch: Batch, split: int) -> Tensor:
        """What layer `split` of the base alone receives: `[rows, tokens, width]`."""
        with with_team():
            return self._backbone.trunk(batch, split)

    def tail(self, activations: Tensor, batch: Batch, split: int, plan: Plan) -> Tensor:
        """The last hidden state when layer `split` receives `activations [rows, tokens, width]`."""
        with with_team():
            if not plan:
                return self._backbone.tail(activations, batch, split)
            with self._updates.applied(plan):
                return self._backbone.tail(activations, batch, split)

    def close(self) -> None:
        """Leave the backbone's modules as they were found."""
        self._updates.close()


def eager_forward(backbone: Backbone, places: Mapping[str, Place], _meter: Meter) -> Forward:
    """Runs a backbone without compiling anything."""
    return Forward(backbone, places)
