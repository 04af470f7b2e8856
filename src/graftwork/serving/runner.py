"""Rows of token ids -> logits and vectors: trunk once per text, tail once per text and adapter, heads together."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from graftwork.errors import ArtifactInvalid, GraftworkError
from graftwork.serving.forward import Forward
from graftwork.serving.heads import apply_heads
from graftwork.serving.pooling import pool_rows
from graftwork.serving.request import AdapterKey, Row, Vector
from graftwork.serving.stacked import Lease, StackedAdapters
from graftwork.serving.stats import Meter, Phase

if TYPE_CHECKING:
    from graftwork.backbones.backbone import TextBackbone
    from graftwork.registry.manifest import Pooling

Ids = tuple[int, ...]
Outcome = Vector | GraftworkError

# A shared trunk costs a second, smaller pass; it is taken when it saves at least this share of the layers' work.
_WORTH_SHARING = 0.1


@dataclass(frozen=True, slots=True)
class Body:
    """What a tail is run for: a text and the updates on it. Rows that differ in their heads only share it.

    Attributes:
        ids: the text's token ids.
        delta: the adapter whose updates run, None when the base's own layers do.
        split: the first layer that is not the base's own; the number of layers when all are.
    """

    ids: Ids
    delta: AdapterKey | None
    split: int


class Runner:
    """Computes rows on one backbone; for the engine's thread alone."""

    def __init__(self, backbone: TextBackbone, forward: Forward, stack: StackedAdapters, meter: Meter) -> None:
        self._backbone = backbone
        self._forward = forward
        self._stack = stack
        self._meter = meter

    def run(self, rows: Sequence[Row], leases: Mapping[AdapterKey, Lease]) -> list[Outcome]:
        """Compute rows, whatever their adapters.

        Args:
            rows: the rows.
            leases: a pinned lease for each adapter with a delta.

        Returns:
            For each row its logits, divided by the temperature, or its pooled vector; an error where the numbers
            are not finite.
        """
        with torch.inference_mode():
            vectors = self._vectors(rows, leases)
            with self._phase("heads"):
                return self._outcomes(rows, vectors)

    def _vectors(self, rows: Sequence[Row], leases: Mapping[AdapterKey, Lease]) -> Tensor:
        """The pooled vector of each row: float32 `[rows, width]`."""
        layers = self._backbone.num_layers
        wanted = [(_body(row, layers), row.pooling) for row in rows]
        poolings: dict[Body, dict[Pooling, None]] = {}
        for body, pooling in wanted:
            poolings.setdefault(body, {})[pooling] = None
        # Rows that differ in their heads only are computed and pooled once.
        place: dict[tuple[Body, Pooling], int] = {}
        parts: list[Tensor] = []
        for split, bodies in share_trunk(list(poolings), layers):
            hidden, mask = self._hidden(bodies, split, leases)
            pairs = [(row, pooling) for row, body in enumerate(bodies) for pooling in poolings[body]]
            picked = [row for row, _ in pairs]
            parts.append(pool_rows(_select(hidden, picked), _select(mask, picked), [pooling for _, pooling in pairs]))
            for row, pooling in pairs:
                place[bodies[row], pooling] = len(place)
        return _select(torch.cat(parts), [place[pair] for pair in wanted])

    def _hidden(self, bodies: Sequence[Body], split: int, leases: Mapping[AdapterKey, Lease]) -> tuple[Tensor, Tensor]:
        """Last hidden states `[bodies, tokens, width]` and attention mask, over a trunk shared below `split`."""
        texts = [body.ids for body in bodies]
        plan = self._stack.plan([leases[body.delta] if body.delta else None for body in bodies])
        batch = self._backbone.collate(texts)
        activations = self._trunk(texts, split) if split else None
        self._meter.add(computed_rows=len(bodies), padded_tokens=batch.input_ids.numel())
        with self._phase("tail"):
            if activations is None:
                return self._forward.whole(batch, plan), batch.attention_mask
            return self._forward.tail(activations, batch, split, plan), batch.attention_mask

    def _trunk(self, texts: Sequence[Ids], split: int) -> Tensor:
        """What layer `split` receives for each text `[texts, tokens, width]`; equal texts are computed once.

        The one place where the base's own activations are made, and so the place for a cache of them across batches,
        keyed by base, tokenizer, split, dtype and token ids.
        """
        unique = {ids: row for row, ids in enumerate(dict.fromkeys(texts))}
        with self._phase("trunk"):
            hidden = self._forward.trunk(self._backbone.collate(list(unique)), split)
        self._meter.add(trunk_rows=len(unique))
        return _select(hidden, [unique[ids] for ids in texts])

    def _outcomes(self, rows: Sequence[Row], vectors: Tensor) -> list[Outcome]:
        headed = [index for index, row in enumerate(rows) if row.head]
        results: list[Tensor] = list(vectors.unbind())
        if headed:
            heads = [adapter.head for row in rows if row.head and (adapter := row.adapter) is not None]
            for index, logits in zip(headed, apply_heads(_select(vectors, headed), heads), strict=True):
                results[index] = logits
        ends = list(itertools.accumulate(len(result) for result in results))
        flat: Vector = torch.cat(results).cpu().numpy()
        # One look at all numbers; only when some are wrong is it asked whose they are.
        sound = bool(np.isfinite(flat).all())
        parts = [flat[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
        return [
            part if sound or bool(np.isfinite(part).all()) else _not_finite(row)
            for row, part in zip(rows, parts, strict=True)
        ]

    @contextmanager
    def _phase(self, name: Phase) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._meter.spent(name, time.perf_counter() - start)


def share_trunk(bodies: Sequence[Body], layers: int) -> list[tuple[int, list[Body]]]:
    """Decide which bodies share a trunk, and how deep.

    Bodies whose updates begin at layer k or above can share the layers below k with every other body of the same
    text. The depth is taken at which the fewest layers are run; bodies with lower updates go through the whole
    network by themselves.

    Args:
        bodies: distinct bodies.
        layers: number of layers of the backbone.

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
        texts = len({body.ids for body in late})
        cost = texts * split + len(late) * (layers - split) + (len(bodies) - len(late)) * layers
        if cost <= cheapest:
            cheapest, depth = cost, split
    if not depth:
        return [(0, list(bodies))]
    groups = [(0, [body for body in bodies if body.split < depth]), (depth, [b for b in bodies if b.split >= depth])]
    return [(split, members) for split, members in groups if members]


def _select(tensor: Tensor, rows: Sequence[int]) -> Tensor:
    """These rows of a tensor; the tensor itself when they are all of its rows in order."""
    if len(rows) == len(tensor) and all(row == place for place, row in enumerate(rows)):
        return tensor
    return tensor.index_select(0, torch.tensor(rows, device=tensor.device))


def _body(row: Row, layers: int) -> Body:
    if row.adapter is None or row.adapter.delta is None:
        return Body(row.ids, None, layers)
    return Body(row.ids, row.adapter.key, row.adapter.delta.split)


def _not_finite(row: Row) -> GraftworkError:
    if row.adapter is None:
        return GraftworkError("the base model gives NaN or infinity for this text")
    return ArtifactInvalid(
        f"adapter {row.adapter.key.digest[:12]} gives NaN or infinity for this text",
        remedy="Train and publish it again; what it says would mean nothing.",
    )
