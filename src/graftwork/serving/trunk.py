"""The layers below the adapters: computed once a text within a batch, and once over time for texts that come back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from graftwork.serving.cache import ActivationCache, trunk_domain
from graftwork.serving.forward import Forward
from graftwork.serving.keys import AdapterKey
from graftwork.serving.own import OwnDelta
from graftwork.serving.stats import Meter

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone

Ids = tuple[int, ...]

# A shared trunk costs a second, smaller pass; it is taken when it saves at least this share of the layers' work.
_WORTH_SHARING = 0.1
# Texts that are remembered as asked for; two bytes of a digest choose the place, the latest comer has it.
_PLACES = 1 << 16


@dataclass(frozen=True, slots=True)
class Body:
    """What a tail is run for: a text and the updates on it. Rows that differ in their heads only share it.

    Attributes:
        ids: the text's token ids.
        delta: the adapter whose updates run, None when the base's own layers do.
        split: the first layer that is not the base's own; the number of layers when all are.
        own: what it runs with when it runs in a group of its own kind.
    """

    ids: Ids
    delta: AdapterKey | None
    split: int
    own: OwnDelta | None = None


class Trunks:
    """The base's own activations for adapters that leave its lower layers alone; for the engine's thread alone.

    A text's activations are tens of kilobytes, and most texts come once. So a text's trunk is computed apart, and
    kept, only when it is asked for a second time: by several adapters of one batch, or after a batch before.
    """

    def __init__(self, backbone: Backbone, forward: Forward, cache: ActivationCache, meter: Meter) -> None:
        self._backbone = backbone
        self._forward = forward
        self._cache = cache
        self._meter = meter
        self._domains = [trunk_domain(cache, backbone, split) for split in range(backbone.num_layers)]
        self._asked: list[bytes] = [b""] * _PLACES

    def groups(self, bodies: Sequence[Body]) -> list[tuple[int, list[Body]]]:
        """Decide which bodies share a trunk, and how deep: `share_trunk`, knowing what is kept or worth keeping."""
        layers = self._backbone.num_layers
        late = dict.fromkeys(body.ids for body in bodies if 0 < body.split < layers)
        if not late:
            return [(0, list(bodies))]
        digests = {ids: _digest(ids) for ids in dict.fromkeys(body.ids for body in bodies)}
        asked = {ids for ids, digest in digests.items() if self._asked[_place(digest)] == digest}

        def known(ids: Ids, split: int) -> bool:
            return ids in asked or (self._domains[split], digests[ids]) in self._cache

        groups = share_trunk(bodies, layers, known)
        for ids in late:
            self._asked[_place(digests[ids])] = digests[ids]
        return groups

    def activations(self, texts: Sequence[Ids], split: int) -> Tensor:
        """What layer `split` of the base receives for each text: `[texts, tokens, width]`, padded on the right.

        Equal texts, and those that are kept, are not computed.
        """
        domain = self._domains[split]
        keys = {ids: _digest(ids) for ids in dict.fromkeys(texts)}
        kept = {ids: value for ids, digest in keys.items() if (value := self._cache.get(domain, digest)) is not None}
        missing = [ids for ids in keys if ids not in kept]
        self._meter.add(trunk_rows=len(missing))
        parts: dict[Ids, Tensor] = {}
        if missing:
            hidden = self._forward.trunk(self._backbone.collate(missing), split)
            # Feature maps `[texts, channels, height, width]` have no padding.
            rows = hidden.unbind()
            parts = {ids: row[: len(ids)] if row.ndim == 2 else row for ids, row in zip(missing, rows, strict=True)}
            for ids, part in parts.items():
                self._cache.put(domain, keys[ids], part.cpu())
            if not kept:
                place = {ids: row for row, ids in enumerate(missing)}
                return select(hidden, [place[ids] for ids in texts])
        for ids, value in kept.items():
            parts[ids] = torch.as_tensor(value, device=self._backbone.device)
        return pad_sequence([parts[ids] for ids in texts], batch_first=True)


def share_trunk(
    bodies: Sequence[Body], layers: int, known: Callable[[Ids, int], bool] = lambda _ids, _split: False
) -> list[tuple[int, list[Body]]]:
    """Decide which bodies share a trunk, and how deep.

    Bodies whose updates begin at layer k or above can share the layers below k with every other body of the same
    text. The depth is taken at which the fewest layers are run; bodies with lower updates go through the whole
    network by themselves.

    Args:
        bodies: distinct bodies.
        layers: number of layers of the backbone.
        known: whether a text's trunk of a depth costs nothing, or is worth its cost for those who come later.

    Returns:
        One or two groups `(split, bodies)`; split 0 is no shared trunk.

    Example:
        >>> one, other = (Body((1, 2), AdapterKey(name, "base"), split=4) for name in "ab")
        >>> share_trunk([one, other], layers=6) == [(4, [one, other])]
        True
    """
    whole = len(bodies) * layers
    cheapest, depth = (1 - _WORTH_SHARING) * whole, 0
    for split in sorted({body.split for body in bodies if 0 < body.split < layers}):
        late = [body for body in bodies if body.split >= split]
        texts = sum(not known(ids, split) for ids in {body.ids for body in late})
        cost = texts * split + len(late) * (layers - split) + (len(bodies) - len(late)) * layers
        if cost <= cheapest:
            cheapest, depth = cost, split
    if not depth:
        return [(0, list(bodies))]
    groups = [(0, [body for body in bodies if body.split < depth]), (depth, [b for b in bodies if b.split >= depth])]
    return [(split, members) for split, members in groups if members]


def select(tensor: Tensor, rows: Sequence[int]) -> Tensor:
    """These rows of a tensor; the tensor itself when they are all of its rows in order."""
    if list(rows) == list(range(len(tensor))):
        return tensor
    return tensor.index_select(0, torch.tensor(rows, device=tensor.device))


def _digest(ids: Ids) -> bytes:
    return blake2b(np.array(ids, np.int64).tobytes(), digest_size=16).digest()


def _place(digest: bytes) -> int:
    return int.from_bytes(digest[:2])
