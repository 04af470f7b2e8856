"""Rows of token ids -> logits and vectors: trunk once per text, tail once per text and adapter, each row's own head.

What was computed before is not computed again: rows whose pooled vector is in the cache skip the network.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from graftwork.errors import ArtifactInvalid, GraftworkError
from graftwork.serving.cache import ActivationCache, embedding_domain
from graftwork.serving.forward import Forward
from graftwork.serving.heads import apply_heads, one_thread_a_product
from graftwork.serving.keys import AdapterKey
from graftwork.serving.pooling import pool_rows
from graftwork.serving.request import Matrix, Row, Vector
from graftwork.serving.stacked import Lease, StackedAdapters
from graftwork.serving.stats import Meter, Phase
from graftwork.serving.teams import with_team
from graftwork.serving.trunk import Body, Trunks

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone
    from graftwork.registry.manifest import Pooling

Outcome = Vector | GraftworkError


class Runner:
    """Computes rows on one backbone; for the engine's thread alone.

    Args:
        backbone: the backbone.
        forward: runs its network.
        stack: the slots of the rows' adapters.
        cache: is asked for each row's vector, and given those that were computed.
        meter: counts rows and seconds.
    """

    def __init__(
        self,
        backbone: Backbone,
        forward: Forward,
        stack: StackedAdapters,
        cache: ActivationCache,
        meter: Meter,
    ) -> None:
        self._backbone = backbone
        self._forward = forward
        self._stack = stack
        self._cache = cache
        self._meter = meter
        self._trunks = Trunks(backbone, forward, cache, meter)
        one_thread_a_product()

    def run(self, rows: Sequence[Row], leases: Mapping[AdapterKey, Lease]) -> list[Outcome]:
        """Compute rows, whatever their adapters.

        Args:
            rows: the rows.
            leases: a pinned lease for each adapter with a delta.

        Returns:
            For each row its logits, divided by the temperature, or its pooled vector, which may be read only; an
            error where the numbers are not finite.
        """
        vectors = self._vectors(rows, leases)
        with self._phase("heads"):
            return _outcomes(rows, vectors)

    def known(self, rows: Sequence[Row]) -> list[bool]:
        """For each row, whether it need not be computed: its vector is in the cache, or a row before it gives it."""
        seen: set[tuple[int, bytes]] = set()
        found = []
        for key in self._keys(rows):
            found.append(key in seen or key in self._cache)
            seen.add(key)
        return found

    def _vectors(self, rows: Sequence[Row], leases: Mapping[AdapterKey, Lease]) -> list[Vector]:
        """The pooled vector of each row: float32 `[width]`; only those that are not in the cache are computed."""
        keys = self._keys(rows)
        found: dict[tuple[int, bytes], Vector] = {}
        missing: dict[tuple[int, bytes], Row] = {}
        for key, row in dict(zip(keys, rows, strict=True)).items():
            vector = self._cache.get(*key)
            if isinstance(vector, np.ndarray):
                found[key] = vector
            else:
                missing[key] = row
        if missing:
            with torch.inference_mode():
                computed = self._computed(list(missing.values()), leases)
            for (key, row), vector in zip(missing.items(), computed, strict=True):
                found[key] = vector
                if np.isfinite(vector).all():
                    self._cache.put(*key, vector, len(row.ids))
        return [found[key] for key in keys]

    def _keys(self, rows: Sequence[Row]) -> list[tuple[int, bytes]]:
        return [(embedding_domain(self._backbone, row.adapter, row.pooling), row.text) for row in rows]

    def _computed(self, rows: Sequence[Row], leases: Mapping[AdapterKey, Lease]) -> Matrix:
        """The pooled vector of each row, by way of the network: float32 `[rows, width]`, on the host."""
        layers = self._backbone.num_layers
        wanted = [(_body(row, layers), row.pooling) for row in rows]
        poolings: dict[Body, list[Pooling]] = {}
        for body, pooling in wanted:
            own = poolings.setdefault(body, [])
            if pooling not in own:
                own.append(pooling)
        # Rows that differ in their heads only are computed and pooled once.
        place: dict[tuple[Body, Pooling], int] = {}
        parts: list[Tensor] = []
        for bodies, hidden in self._groups(list(poolings), leases):
            pairs = [(row, pooling) for row, body in enumerate(bodies) for pooling in poolings[body]]
            parts.append(pool_rows(hidden, [len(body.ids) for body in bodies], pairs))
            for row, pooling in pairs:
                place[bodies[row], pooling] = len(place)
        vectors: Matrix = torch.cat(parts).cpu().numpy()
        return vectors[[place[pair] for pair in wanted]]

    def _groups(
        self, bodies: Sequence[Body], leases: Mapping[AdapterKey, Lease]
    ) -> Iterator[tuple[Sequence[Body], Tensor]]:
        """Bodies that run together, with their last hidden states `[bodies, tokens, width]`."""
        shared = [body for body in bodies if body.own is None]
        for split, members in self._trunks.groups(shared) if shared else ():
            yield members, self._hidden(members, split, leases)
        apart: dict[Hashable, list[Body]] = {}
        for body in bodies:
            if body.own is not None:
                apart.setdefault(body.own.group, []).append(body)
        for members in apart.values():
            yield members, self._own_hidden(members)

    def _own_hidden(self, bodies: Sequence[Body]) -> Tensor:
        """The same for bodies of one group of their own."""
        deltas = [body.own for body in bodies if body.own is not None]
        batch = self._backbone.collate([body.ids for body in bodies])
        self._meter.add(computed_rows=len(bodies), padded_tokens=batch.attention_mask.numel())
        with self._phase("tail"), with_team():
            return deltas[0].hidden(self._backbone, batch, deltas)

    def _hidden(self, bodies: Sequence[Body], split: int, leases: Mapping[AdapterKey, Lease]) -> Tensor:
        """Last hidden states `[bodies, tokens, width]`, over a trunk shared below `split`."""
        texts = [body.ids for body in bodies]
        plan = self._stack.plan([leases[body.delta] if body.delta else None for body in bodies])
        batch = self._backbone.collate(texts)
        self._meter.add(computed_rows=len(bodies), padded_tokens=batch.attention_mask.numel())
        if not split:
            with self._phase("tail"):
                return self._forward.whole(batch, plan)
        with self._phase("trunk"):
            activations = self._trunks.activations(texts, split)
        with self._phase("tail"):
            return self._forward.tail(activations, batch, split, plan)

    @contextmanager
    def _phase(self, name: Phase) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._meter.spent(name, time.perf_counter() - start)


def _outcomes(rows: Sequence[Row], vectors: Sequence[Vector]) -> list[Outcome]:
    headed = [index for index, row in enumerate(rows) if row.head]
    heads = [adapter.head for row in rows if row.head and (adapter := row.adapter) is not None]
    results: list[Vector] = list(vectors)
    for index, logits in zip(headed, apply_heads([vectors[index] for index in headed], heads), strict=True):
        results[index] = logits
    # One look at all numbers; only when some are wrong is it asked whose they are.
    if np.isfinite(np.concatenate(results)).all():
        return list(results)
    return [
        result if np.isfinite(result).all() else _not_finite(row) for row, result in zip(rows, results, strict=True)
    ]


def _body(row: Row, layers: int) -> Body:
    if row.adapter is None or row.adapter.split is None:
        return Body(row.ids, None, layers)
    return Body(row.ids, row.adapter.body, row.adapter.split, row.adapter.own)


def _not_finite(row: Row) -> GraftworkError:
    if row.adapter is None:
        return GraftworkError("the base model gives NaN or infinity for this text")
    return ArtifactInvalid(
        f"adapter {row.adapter.key.digest[:12]} gives NaN or infinity for this text",
        remedy="Train and publish it again; what it says would mean nothing.",
    )
