"""Rows of a partial or full fine-tune: the base's modules run on its weights, a layer's at a time.

A tenant's weights are kept as they are stored, a bit or so a number. While its rows run, each layer gets its changed
weights when it begins and the base's back when it ends, so that no more than one layer's exist twice. Of an embedding
table no second one is made: the vectors of changed rows are corrected as they leave it.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from graftwork.adaptation.changes import ROWS, Change
from graftwork.adaptation.parameters import ParameterPlace, parameter_places
from graftwork.adaptation.weight_files import StoredWeights, read_weights

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone, Batch
    from graftwork.serving.own import OwnDelta

_Changed = tuple[ParameterPlace, Change]
_PLACES: WeakKeyDictionary[Backbone, Mapping[str, ParameterPlace]] = WeakKeyDictionary()
_LOCK = threading.Lock()


class WeightsDelta:
    """Tuned weights in the form they are stored in, on the host; compared and hashed by identity.

    Args:
        stored: the changes.
        backbone: the base they are of.
        places: its parameters.

    Attributes:
        split: index of the first layer that is not the base's own.
        nbytes: bytes of all tensors.
    """

    def __init__(self, stored: StoredWeights, backbone: Backbone, places: Mapping[str, ParameterPlace]) -> None:
        self.split = stored.split
        self.nbytes = sum(change.nbytes for change in stored.changes.values())
        self._layers: dict[int, list[_Changed]] = {}
        self._tables: list[tuple[nn.Embedding, Change]] = []
        self._around: list[_Changed] = []
        layer_of = {module: index for index, layer in enumerate(backbone.layers) for module in layer.modules()}
        for name, change in stored.changes.items():
            place = places[name]
            within = {layer_of.get(module) for module, _ in place.owners}
            table = place.owners[0][0]
            if len(within) == 1 and (layer := within.pop()) is not None:
                self._layers.setdefault(layer, []).append((place, change))
            elif isinstance(table, nn.Embedding) and len(place.owners) == 1 and _looks_up(table):
                self._tables.append((table, change))
            else:
                # Norms and the like, outside the layers or shared among them.
                self._around.append((place, change))

    @property
    def group(self) -> Hashable:
        """Its own rows run together, nobody else's with them."""
        return self

    def hidden(self, backbone: Backbone, batch: Batch, deltas: Sequence[OwnDelta]) -> Tensor:
        """The last hidden state `[rows, tokens, width]`, in the backbone's dtype; see `OwnDelta.hidden`."""
        with self._in_place(backbone):
            return backbone.forward(batch)

    @contextmanager
    def _in_place(self, backbone: Backbone) -> Iterator[None]:
        with ExitStack() as stack:
            for module, change in self._tables:
                stack.callback(module.register_forward_hook(_correcting(change)).remove)
            for index, changed in self._layers.items():
                layer = backbone.layers[index]
                stack.callback(_restore, changed)
                stack.callback(layer.register_forward_pre_hook(_putting(changed)).remove)
                stack.callback(layer.register_forward_hook(_restoring(changed)).remove)
            stack.callback(_restore, self._around)
            _put(self._around)
            yield


def read_weights_delta(config: bytes, tensors: bytes, backbone: Backbone) -> WeightsDelta:
    """Read both files for a backbone, strictly.

    Raises:
        ArtifactInvalid: with every problem found.
    """
    places = _places_of(backbone)
    return WeightsDelta(read_weights(config, tensors, places, backbone.layer_names), backbone, places)


def _places_of(backbone: Backbone) -> Mapping[str, ParameterPlace]:
    """The base's own parameters, looked up by the first load that needs them.

    Later loads run while the engine's thread may have a tenant's weights in place, and would take those for the base's.
    """
    with _LOCK:
        if backbone not in _PLACES:
            _PLACES[backbone] = parameter_places(backbone)
        return _PLACES[backbone]


def _looks_up(table: nn.Embedding) -> bool:
    """Whether its rows leave it as they are: tables that scale them or shift places have a forward of their own."""
    return type(table).forward is nn.Embedding.forward


def _putting(changed: Sequence[_Changed]) -> Any:
    return lambda _module, _args: _put(changed)


def _restoring(changed: Sequence[_Changed]) -> Any:
    return lambda _module, _args, _output: _restore(changed)


def _put(changed: Iterable[_Changed]) -> None:
    for place, change in changed:
        place.put(change.on(place.parameter).to(place.parameter.dtype))


def _restore(changed: Iterable[_Changed]) -> None:
    for place, _ in changed:
        place.restore()


def _correcting(change: Change) -> Any:
    """A forward hook for an embedding: what its changed rows give is changed likewise."""
    rows = change.parts.get(ROWS)

    def correct(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        ids = args[0].broadcast_to(output.shape[:-1]).flatten()
        if rows is None:
            return change.on_rows(output.flatten(0, -2), ids).to(output.dtype).view(output.shape)
        known = rows.to(ids.device)
        stored = torch.searchsorted(known, ids.int()).clamp_(max=len(known) - 1)
        hit = (known[stored] == ids).nonzero()[:, 0]
        corrected = output.flatten(0, -2).clone()
        corrected[hit] = change.on_rows(corrected[hit], stored[hit]).to(output.dtype)
        return corrected.view(output.shape)

    return correct
