"""Activations of texts that were computed before: pooled vectors, and what the layers below an adapter gave.

Entries are found by what they are made of: base, tokenizer, dtype, length, pooling, adapter and text, all by content.
Nothing that changes gives the same key, so no entry ever becomes wrong and none is ever invalidated: an adapter that
is replaced has another digest, and what nobody asks for any more leaves as the least recently used.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftwork.serving.stats import Meter

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone
    from graftwork.registry.manifest import Pooling
    from graftwork.serving.adapters import LoadedAdapter

Kind = Literal["embedding", "trunk"]
Value = NDArray[np.float32] | Tensor

# What an entry takes beside its numbers: key, digest, place in the dictionary, the array's or tensor's own object and
# what the allocator adds. Measured over full and over churning caches (docs/decisions/0046-activation-cache.md).
ARRAY_OVERHEAD = 512
TENSOR_OVERHEAD = 1088
# Vectors save a whole network for a kilobyte or two, activations of a trunk a part of one for tens of kilobytes. So
# activations are pushed out by vectors once they hold more than this share, and never push vectors out of the rest.
_TRUNK_SHARE = 0.25


@dataclass(slots=True)
class _Shelf:
    """The entries of one kind, least recently used first."""

    # Values, and the tokens that their texts have.
    entries: OrderedDict[tuple[int, bytes], tuple[Value, int]] = field(default_factory=OrderedDict)
    nbytes: int = 0
    hits: int = 0
    misses: int = 0


class ActivationCache:
    """Activations by content, within a bound. Every method may be called from any thread, none waits for work.

    Values are shared, not copied, when they are given out: nobody writes to them.

    Args:
        nbytes: most bytes kept, everything an entry takes counted; 0 keeps nothing.
        meter: is told hits and misses by kind, evictions, and what is kept.

    Example:
        >>> cache = ActivationCache(1 << 20, Meter())
        >>> domain = cache.domain("embedding", "a base", "a tokenizer", "float32", 128, "mean", 0)
        >>> cache.put(domain, text_digest("it works"), np.ones(3, np.float32))
        >>> cache.get(domain, text_digest("it works"))
        array([1., 1., 1.], dtype=float32)
    """

    def __init__(self, nbytes: int, meter: Meter) -> None:
        self._limit = nbytes
        self._lock = threading.Lock()
        # By the lowest bit of the domain.
        self._shelves = (_Shelf(), _Shelf())
        self._evictions = 0
        meter.read_from(self._counts)

    @property
    def nbytes(self) -> int:
        """Bytes kept, everything an entry takes counted."""
        return self._shelves[0].nbytes + self._shelves[1].nbytes

    def __len__(self) -> int:
        return len(self._shelves[0].entries) + len(self._shelves[1].entries)

    def __contains__(self, key: tuple[int, bytes]) -> bool:
        """Whether the value of a domain and text is kept; neither counted nor a use."""
        return key in self._shelves[key[0] & 1].entries

    def domain(self, kind: Kind, *parts: str | int) -> int:
        """The number that stands for everything but the text that an entry is made of.

        It is a digest of the parts. So there is no table of domains that could grow with the adapters that come and
        go, and no number ever stands for something else later.
        """
        return _domain(kind, parts)

    def get(self, domain: int, text: bytes) -> Value | None:
        """The value of a text, by `text_digest`; counted as a hit or a miss."""
        shelf = self._shelves[domain & 1]
        key = (domain, text)
        with self._lock:
            entry = shelf.entries.get(key)
            if entry is None:
                shelf.misses += 1
                return None
            shelf.entries.move_to_end(key)
            shelf.hits += 1
            return entry[0]

    def get_each(
        self, domains: Sequence[int | None], texts: Sequence[Sequence[bytes]]
    ) -> list[list[tuple[Value, int]] | None]:
        """For each of several requests the values of all of its texts, each with the tokens of its text.

        None stands for a request one of whose texts is missing, or that has no domain. What is missing has to be
        computed, and whoever computes asks for each text again: only then is it counted.
        """
        with self._lock:
            return [
                None if domain is None else self._get_all(self._shelves[domain & 1], [(domain, text) for text in each])
                for domain, each in zip(domains, texts, strict=True)
            ]

    def _get_all(self, shelf: _Shelf, keys: Sequence[tuple[int, bytes]]) -> list[tuple[Value, int]] | None:
        found = []
        for key in keys:
            entry = shelf.entries.get(key)
            if entry is None:
                return None
            found.append(entry)
        for key in keys:
            shelf.entries.move_to_end(key)
        shelf.hits += len(keys)
        return found

    def put(self, domain: int, text: bytes, value: Value, tokens: int = 0) -> None:
        """Keep a value, and let go of what was used least recently when the bound asks for it.

        Args:
            domain: what it is made of beside the text, from `domain`.
            text: digest of the text, from `text_digest`.
            value: a finite float32 vector for "embedding", activations `[tokens, width]` without padding for "trunk".
                It is handed over and not written to any more; a part of something larger is copied, so that the rest
                can go.
            tokens: that the text has; `get_each` gives it back.
        """
        size = value.nbytes + (ARRAY_OVERHEAD if isinstance(value, np.ndarray) else TENSOR_OVERHEAD)
        if size > self._limit:
            return
        value = _compact(value)
        key = (domain, text)
        shelf = self._shelves[domain & 1]
        with self._lock:
            # What is here already is the same: the key is the content.
            if key in shelf.entries:
                shelf.entries.move_to_end(key)
                return
            shelf.entries[key] = value, tokens
            shelf.nbytes += size
            while self.nbytes > self._limit:
                self._evict()

    def _evict(self) -> None:
        vectors, trunks = self._shelves
        shelf = trunks if trunks.nbytes > _TRUNK_SHARE * self._limit or not vectors.entries else vectors
        _, (value, _) = shelf.entries.popitem(last=False)
        shelf.nbytes -= value.nbytes + (ARRAY_OVERHEAD if isinstance(value, np.ndarray) else TENSOR_OVERHEAD)
        self._evictions += 1

    def _counts(self) -> dict[str, int]:
        vectors, trunks = self._shelves
        with self._lock:
            return {
                "embedding_hits": vectors.hits,
                "embedding_misses": vectors.misses,
                "trunk_hits": trunks.hits,
                "trunk_misses": trunks.misses,
                "cache_evictions": self._evictions,
                "cache_entries": len(self),
                "cache_bytes": self.nbytes,
            }


def text_digest(text: str) -> bytes:
    """The 16 bytes by which a text is known; any string has them, also one that is no valid Unicode."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def embedding_domain(backbone: Backbone, adapter: LoadedAdapter | None, pooling: Pooling) -> int:
    """The domain of pooled vectors: one for all head-only adapters that cut and pool alike, and for the base itself."""
    parts = (
        backbone.fingerprint,
        backbone.tokenizer_digest,
        backbone.prompt,
        backbone.dtype_name,
        backbone.max_length if adapter is None else min(adapter.max_length, backbone.max_length),
        pooling.mode,
        int(pooling.normalize),
        "" if adapter is None or adapter.split is None else adapter.body.digest,
    )
    return _domain("embedding", parts)


def trunk_domain(cache: ActivationCache, backbone: Backbone, split: int) -> int:
    """The domain of what layer `split` of the base receives, for texts known by their token ids."""
    return cache.domain("trunk", backbone.fingerprint, backbone.dtype_name, split)


# Bounded, and only to save time: a domain that has left it is computed again and comes out the same.
@lru_cache(maxsize=4096)
def _domain(kind: Kind, parts: tuple[str | int, ...]) -> int:
    digest = blake2b(repr(parts).encode(), digest_size=16, person=kind.encode()).digest()
    return int.from_bytes(digest) << 1 | (kind == "trunk")


def _compact(value: Value) -> Value:
    if isinstance(value, np.ndarray):
        value = value if value.flags.owndata else value.copy()
        value.flags.writeable = False
        return value
    # An inference tensor may be used by whoever computes under inference mode, and there is no other use.
    with torch.inference_mode():
        return value.clone() if value.untyped_storage().nbytes() > value.nbytes else value
