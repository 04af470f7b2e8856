"""Training the base's own parameters, and storing what became of them: what partial and full fine-tuning share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from graftwork.adaptation.changes import SCALE, Change, Encoding, change_of
from graftwork.adaptation.parameters import ParameterPlace, first_layers, parameter_places
from graftwork.adaptation.strategy import Delta, StrategySettings
from graftwork.adaptation.weight_files import StoredWeights, read_weights, write_weights
from graftwork.errors import ArtifactInvalid, Problem
from graftwork.registry.artifact import DELTA, DELTA_CONFIG

if TYPE_CHECKING:
    from types import TracebackType

    from graftwork.backbones.backbone import Backbone


class WeightSettings(StrategySettings):
    """How tuned weights are stored.

    Attributes:
        store: `one-bit` keeps the sign of each difference and a scale a row; `float16` the differences; `lossless`
            the changed numbers in float32.
    """

    store: Encoding = "one-bit"

    @property
    def begins_as_base(self) -> bool:
        """What is tuned are copies of the base's own weights."""
        return True


class WeightsAttachment:
    """Float32 parameters in the place of the base's own, which it gets back when the block ends.

    The model is handed them, in the dtype of the backbone, at the beginning of each of its forwards.

    Args:
        backbone: the bare backbone.
        places: the places of its parameters.
        values: for each tuned parameter what takes its place, float32, not shared with the base.
        depths: the layer in which each of them first acts.
        split: index of the first tuned layer.
        encoding: how they are stored.
        changes: how they are stored, when that is known already.

    Attributes:
        backbone: as given.
        split: index of the first tuned layer.
        encoding: how they are stored.
    """

    def __init__(
        self,
        backbone: Backbone,
        places: Mapping[str, ParameterPlace],
        values: Mapping[str, Tensor],
        depths: Mapping[str, int],
        *,
        split: int,
        encoding: Encoding,
        changes: Mapping[str, Change] | None = None,
    ) -> None:
        self.split = split
        self.encoding: Encoding = encoding
        self.backbone = backbone
        self._places = {name: places[name] for name in sorted(values)}
        self._values = {name: nn.Parameter(values[name]) for name in self._places}
        self._depths = [depths[name] for name in self._places]
        self._changes = changes
        self._factors: dict[str, nn.Parameter] = {}
        self._hook = backbone.model.register_forward_pre_hook(self._put_in_place)

    def train(self, mode: bool) -> None:
        """Nothing behaves otherwise in training: the base's own dropout stays off, as in every strategy."""

    def parameters(self) -> list[nn.Parameter]:
        """The tuned parameters, float32, by name."""
        return list(self._values.values())

    def depths(self) -> list[int]:
        """For each of `parameters()` the layer it first acts in; -1 below the first."""
        return self._depths

    @property
    def tuned(self) -> dict[str, nn.Parameter]:
        """The tuned parameters by the names of those whose place they take."""
        return self._values

    def values(self) -> dict[str, Tensor]:
        """What stands in the place of the base's parameters, by name, in the backbone's dtype."""
        return {name: self._value(name).detach().to(self.backbone.dtype).clone() for name in self._places}

    def compress(self) -> list[nn.Parameter]:
        """Go over to what will be stored: from here on the model runs on that.

        Returns:
            For each tensor with scales float32 factors on them, one a row, to be trained; each is 1 at first. None
            for encodings without scales.
        """
        self._changes, self._factors = {}, {}
        with torch.no_grad():
            for name, place in self._places.items():
                change = change_of(place.parameter, self._values[name], self.encoding)
                if change is None:
                    continue
                self._changes[name] = change
                if SCALE in change.parts:
                    self._factors[name] = nn.Parameter(torch.ones_like(change.parts[SCALE]))
                self._values[name].copy_(change.on(place.parameter))
        return list(self._factors.values())

    def delta(self) -> Delta:
        """Both files; the same values give the same bytes. None when nothing changed."""
        if self._changes is None:
            self.compress()
        assert self._changes is not None
        changes = {name: self._scaled(name, change) for name, change in self._changes.items()}
        return write_weights(StoredWeights(self.split, self.encoding, changes), layers=self.backbone.num_layers)

    def __enter__(self) -> WeightsAttachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hook.remove()
        for place in self._places.values():
            place.restore()

    def _put_in_place(self, _model: nn.Module, _args: tuple[Any, ...]) -> None:
        for name, place in self._places.items():
            place.put(self._value(name).to(self.backbone.dtype))

    def _value(self, name: str) -> Tensor:
        if name not in self._factors:
            return self._values[name]
        assert self._changes is not None
        return self._scaled(name, self._changes[name]).on(self._places[name].parameter)

    def _scaled(self, name: str, change: Change) -> Change:
        return change.scaled(self._factors[name]) if name in self._factors else change


def attach_weights(backbone: Backbone, *, lowest: int, split: int, encoding: Encoding) -> WeightsAttachment:
    """Put copies in the place of all parameters that the hidden states need and that act from a layer on upward.

    Args:
        backbone: the bare backbone.
        lowest: the lowest layer to tune; -1 for what lies below the first too. What a frozen layer needs stays frozen.
        split: index of the first tuned layer.
        encoding: how they are stored.
    """
    places = parameter_places(backbone)
    depths = {name: depth for name, depth in first_layers(backbone, places).items() if depth >= lowest}
    values = {name: places[name].parameter.detach().float().clone() for name in depths}
    return WeightsAttachment(backbone, places, values, depths, split=split, encoding=encoding)


def restore_weights(backbone: Backbone, files: Mapping[str, bytes]) -> WeightsAttachment:
    """Put stored weights in place; without files nothing was changed, and nothing is.

    Raises:
        ArtifactInvalid: if the files do not fit the backbone, or change what its hidden states do not depend on.
    """
    places = parameter_places(backbone)
    if not files:
        return WeightsAttachment(backbone, places, {}, {}, split=backbone.num_layers, encoding="lossless", changes={})
    stored = read_weights(files[DELTA_CONFIG], files[DELTA], places, backbone.layer_names)
    depths = first_layers(backbone, places)
    problems = [
        Problem(f"{DELTA}, {name}", "changes nothing of what the model gives, or something below the first tuned layer")
        for name in sorted(stored.changes)
        if max(0, depths.get(name, -2)) < stored.split or name not in depths
    ]
    if problems:
        raise ArtifactInvalid(
            "the tuned weights do not fit the base model", problems=problems, remedy="Train and publish it again."
        )
    with torch.no_grad():
        values = {name: change.on(places[name].parameter).clone() for name, change in stored.changes.items()}
    return WeightsAttachment(
        backbone, places, values, depths, split=stored.split, encoding=stored.encoding, changes=stored.changes
    )
