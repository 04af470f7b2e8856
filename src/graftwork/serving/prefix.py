"""Rows with a prefix each: of many adapters, of any length and depth, in one batch."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from graftwork.adaptation.prefix_files import NAME, PEFT_TYPE, StoredPrefix, read_prefix
from graftwork.backbones.attention import LayerPrefix, prefixed
from graftwork.errors import ArtifactInvalid, Problem
from graftwork.registry.artifact import DELTA

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone, Batch
    from graftwork.serving.own import OwnDelta


class PrefixDelta:
    """A prefix on the host, in the backbone's dtype.

    Attributes:
        keys: `[layers, heads, length, head width]`, of the top layers.
        values: the same.
        split: index of the first layer that has one.
        offset: places that the row's tokens move on.
    """

    def __init__(self, prefix: StoredPrefix, backbone: Backbone) -> None:
        self.keys = prefix.keys.to(backbone.dtype)
        self.values = prefix.values.to(backbone.dtype)
        self.split = backbone.num_layers - len(self.keys)
        self.offset = backbone.attention.offset(self.length, split=self.split)

    @property
    def length(self) -> int:
        """Keys a layer."""
        return self.keys.shape[2]

    @property
    def group(self) -> Hashable:
        """All prefixes of a backbone run together."""
        return PEFT_TYPE

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return self.keys.nbytes + self.values.nbytes

    def hidden(self, backbone: Backbone, batch: Batch, deltas: Sequence[OwnDelta]) -> Tensor:
        """The last hidden state `[rows, tokens, width]`, each row behind its own prefix."""
        own = cast("Sequence[PrefixDelta]", deltas)
        layers = range(min(delta.split for delta in own), backbone.num_layers)
        prefixes = {layer: _side_by_side(own, layer, backbone.device) for layer in layers}
        with prefixed(backbone, prefixes, [delta.offset for delta in own]):
            return backbone.forward(batch)


def read_prefix_delta(config: bytes, tensors: bytes, backbone: Backbone) -> PrefixDelta:
    """Read a prefix strictly.

    Raises:
        ArtifactInvalid: if it does not fit the backbone, or would not be finite in its dtype.
        ModelUnsupported: if the backbone's attention cannot be given a prefix.
    """
    delta = PrefixDelta(read_prefix(config, tensors, backbone), backbone)
    if not (torch.isfinite(delta.keys).all() and torch.isfinite(delta.values).all()):
        raise ArtifactInvalid(
            "the adapter is refused: its prefix cannot be served",
            problems=[Problem(f"{DELTA}, {NAME}", f"holds NaN or infinity in {backbone.dtype_name}")],
            remedy="Train and publish it again.",
        )
    return delta


def _side_by_side(deltas: Sequence[PrefixDelta], layer: int, device: torch.device) -> LayerPrefix:
    """The prefixes of a batch's rows in one layer, padded to the longest; a row without one sees none of them.

    Args:
        deltas: for each row its delta; at least one has a prefix in this layer.
        layer: index of the layer.
        device: where to.
    """
    distinct = {delta: place for place, delta in enumerate(dict.fromkeys(deltas))}
    lengths = [delta.length if layer >= delta.split else 0 for delta in distinct]
    _, heads, _, head_width = deltas[0].keys.shape
    # [keys and values, deltas, heads, length, head width]
    padded = deltas[0].keys.new_zeros(2, len(distinct), heads, max(lengths), head_width)
    for delta, place in distinct.items():
        if lengths[place]:
            padded[0, place, :, : delta.length] = delta.keys[layer - delta.split]
            padded[1, place, :, : delta.length] = delta.values[layer - delta.split]
    keys, values = padded.to(device)
    if len(distinct) == 1:
        return LayerPrefix(keys[0], values[0])
    rows = torch.tensor([distinct[delta] for delta in deltas], device=device)
    seen = torch.arange(max(lengths), device=device) < torch.tensor(lengths, device=device)[rows, None]
    return LayerPrefix(keys[rows], values[rows], None if bool(seen.all()) else seen)
