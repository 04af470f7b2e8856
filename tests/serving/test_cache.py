"""The cache of activations: what it keeps, for how long, and that its bound is true."""

from __future__ import annotations

import random
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.registry.manifest import Pooling
from graftwork.serving.cache import (
    ARRAY_OVERHEAD,
    TENSOR_OVERHEAD,
    ActivationCache,
    embedding_domain,
    text_digest,
    trunk_domain,
)
from graftwork.serving.keys import AdapterKey
from graftwork.serving.stats import Meter

WIDTH = 16
ENTRY = 4 * WIDTH + ARRAY_OVERHEAD


def vector(number: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.full(WIDTH, number, np.float32)


def text(number: int) -> bytes:
    return text_digest(str(number))


def test_what_was_put_is_given_out_until_others_need_its_place() -> None:
    cache = ActivationCache(3 * ENTRY, Meter())
    domain = cache.domain("embedding", "base")
    for number in range(3):
        cache.put(domain, text(number), vector(number))
    assert cache.get(domain, text(0)) is not None
    cache.put(domain, text(3), vector(3))
    # 1 was used least recently: 0 was asked for since.
    assert cache.get(domain, text(1)) is None
    for number in (0, 2, 3):
        np.testing.assert_array_equal(cache.get(domain, text(number)), vector(number))
    assert (len(cache), cache.nbytes) == (3, 3 * ENTRY)


def test_putting_what_is_there_already_counts_as_a_use_and_takes_no_room() -> None:
    cache = ActivationCache(2 * ENTRY, Meter())
    domain = cache.domain("embedding", "base")
    for number in (0, 1, 0, 2):
        cache.put(domain, text(number), vector(number))
    assert cache.get(domain, text(0)) is not None
    assert cache.get(domain, text(1)) is None
    assert cache.nbytes == 2 * ENTRY


def test_all_texts_or_none() -> None:
    meter = Meter()
    cache = ActivationCache(1 << 20, meter)
    domain = cache.domain("embedding", "base")
    cache.put(domain, text(0), vector(0), 7)
    cache.put(domain, text(1), vector(1))
    assert cache.get_each([domain, None], [[text(0), text(2)], []]) == [None, None]
    assert meter.snapshot().embedding_misses == meter.snapshot().embedding_hits == 0
    (found,) = cache.get_each([domain], [[text(1), text(0), text(1)]])
    assert found is not None
    assert [(float(value[0]), tokens) for value, tokens in found] == [(1.0, 0), (0.0, 7), (1.0, 0)]
    assert meter.snapshot().embedding_hits == 3


def test_a_value_larger_than_the_bound_is_not_kept_and_costs_others_nothing() -> None:
    cache = ActivationCache(2 * ENTRY, Meter())
    domain = cache.domain("embedding", "base")
    cache.put(domain, text(0), vector(0))
    cache.put(domain, text(1), np.zeros(4 * WIDTH + ARRAY_OVERHEAD, np.float32))
    assert cache.get(domain, text(1)) is None
    assert cache.get(domain, text(0)) is not None


def test_a_cache_of_no_bytes_keeps_nothing() -> None:
    cache = ActivationCache(0, Meter())
    domain = cache.domain("embedding", "base")
    cache.put(domain, text(0), vector(0))
    assert cache.get(domain, text(0)) is None
    assert (len(cache), cache.nbytes) == (0, 0)


def test_hits_misses_evictions_and_bytes_are_counted_by_kind() -> None:
    meter = Meter()
    cache = ActivationCache(2 * ENTRY + 64 + TENSOR_OVERHEAD, meter)
    vectors, trunks = cache.domain("embedding", "base"), cache.domain("trunk", "base")
    for number in range(2):
        cache.put(vectors, text(number), vector(number))
    cache.put(trunks, text(0), torch.zeros(2, 8))
    for domain, number in ((vectors, 0), (vectors, 9), (trunks, 0), (trunks, 1), (trunks, 2)):
        cache.get(domain, text(number))
    stats = meter.snapshot()
    assert (stats.embedding_hits, stats.embedding_misses) == (1, 1)
    assert (stats.trunk_hits, stats.trunk_misses) == (1, 2)
    assert (stats.cache_entries, stats.cache_bytes) == (3, 2 * ENTRY + 64 + TENSOR_OVERHEAD)
    assert stats.cache_evictions == 0
    cache.put(vectors, text(2), vector(2))
    assert meter.snapshot().cache_evictions == 1


def test_vectors_push_trunks_back_to_their_share_and_trunks_never_push_vectors_out_of_theirs() -> None:
    trunk = torch.zeros(8, 16)
    size = trunk.nbytes + TENSOR_OVERHEAD
    cache = ActivationCache(16 * size, Meter())
    vectors, trunks = cache.domain("embedding", "base"), cache.domain("trunk", "base")
    for number in range(40):
        cache.put(trunks, text(number), trunk.clone())
    # Nobody else wants the room.
    assert len(cache) == 16
    for number in range(1000):
        cache.put(vectors, text(number), vector(number))
    left = sum(cache.get(trunks, text(number)) is not None for number in range(40))
    assert left == 4
    kept = len(cache) - left
    for number in range(40, 140):
        cache.put(trunks, text(number), trunk.clone())
    assert sum(cache.get(trunks, text(number)) is not None for number in range(140)) == 4
    assert sum(cache.get(vectors, text(number)) is not None for number in range(1000)) == kept


def test_a_row_of_a_batch_does_not_keep_the_batch() -> None:
    cache = ActivationCache(1 << 20, Meter())
    vectors, trunks = cache.domain("embedding", "base"), cache.domain("trunk", "base")
    cache.put(vectors, text(0), np.zeros((64, WIDTH), np.float32)[3])
    cache.put(trunks, text(0), torch.zeros(64, 9, WIDTH, dtype=torch.bfloat16)[3, :4])
    row, hidden = cache.get(vectors, text(0)), cache.get(trunks, text(0))
    assert isinstance(row, np.ndarray)
    assert row.base is None
    assert isinstance(hidden, torch.Tensor)
    assert (hidden.shape, hidden.dtype) == ((4, WIDTH), torch.bfloat16)
    assert hidden.untyped_storage().nbytes() == 4 * WIDTH * 2


def test_nobody_can_write_to_a_kept_vector() -> None:
    cache = ActivationCache(1 << 20, Meter())
    domain = cache.domain("embedding", "base")
    cache.put(domain, text(0), vector(0))
    kept = cache.get(domain, text(0))
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 1  # type: ignore[index]


def test_the_bound_is_what_the_memory_really_takes() -> None:
    """Vectors, keys and bookkeeping, while texts come and go; tensors' numbers are not seen by tracemalloc."""
    limit = 4 << 20
    chance = random.Random(0)
    cache = ActivationCache(limit, Meter())
    domains = [cache.domain("embedding", "base", number) for number in range(50)]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for round_ in range(8):
            for _ in range(6000):
                key = chance.choice(domains), chance.randbytes(16)
                cache.put(*key, np.zeros(chance.choice((8, 32, 384)), np.float32))
            taken = tracemalloc.get_traced_memory()[0] - before
            assert cache.nbytes <= limit
            assert taken <= limit, f"round {round_}: {taken / limit:.2f} of the bound"
            assert taken >= 0.6 * limit
    finally:
        tracemalloc.stop()


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "get"]), st.integers(0, 2), st.integers(0, 9), st.booleans()), max_size=60
    ),
    st.integers(0, 12 * ENTRY),
)
def test_any_order_of_uses_gives_only_what_was_put_and_stays_within_the_bound(
    uses: list[tuple[str, int, int, bool]], limit: int
) -> None:
    cache = ActivationCache(limit, Meter())
    for use, place, number, trunk in uses:
        domain = cache.domain("trunk" if trunk else "embedding", place)
        content = 100 * place + number
        if use == "put":
            value = torch.full((number + 1, 2), float(content)) if trunk else vector(content)
            cache.put(domain, text(number), value)
        found = cache.get(domain, text(number))
        if found is not None:
            assert bool((found == content).all())
            assert isinstance(found, torch.Tensor) == trunk
        assert cache.nbytes <= limit


def test_threads_that_put_and_get_at_once_find_only_what_belongs_to_the_key() -> None:
    meter = Meter()
    cache = ActivationCache(40 * ENTRY, meter)
    domains = [cache.domain("embedding", number) for number in range(4)]

    def work(seed: int) -> int:
        chance = random.Random(seed)
        asked = 0
        for _ in range(3000):
            place, number = chance.randrange(4), chance.randrange(30)
            found = cache.get(domains[place], text(number))
            asked += 1
            if found is None:
                cache.put(domains[place], text(number), vector(100 * place + number))
            else:
                assert found[0] == 100 * place + number
        return asked

    with ThreadPoolExecutor(4) as pool:
        asked = sum(pool.map(work, range(4)))
    stats = meter.snapshot()
    assert stats.embedding_hits + stats.embedding_misses == asked
    assert stats.cache_bytes == ENTRY * stats.cache_entries <= 40 * ENTRY


@dataclass(frozen=True)
class Content:
    """All that an entry is made of beside its text, with the attributes of backbone and adapter."""

    fingerprint: str = "base"
    tokenizer_digest: str = "tokenizer"
    prompt: str = ""
    dtype_name: str = "float32"
    max_length: int = 64
    own_length: int = 32
    mode: str = "mean"
    normalize: bool = False
    digest: str = "a"
    delta: bool = False
    split: int = 1

    def embedding(self, cache: ActivationCache) -> int:
        pooling = Pooling(mode=self.mode, normalize=self.normalize)
        return embedding_domain(self, self.adapter, pooling)  # type: ignore[arg-type]

    def trunk(self, cache: ActivationCache) -> int:
        return trunk_domain(cache, self, self.split)  # type: ignore[arg-type]

    @property
    def adapter(self) -> Any:
        return _Adapter(AdapterKey(self.digest, self.fingerprint), self.own_length, object() if self.delta else None)


@dataclass(frozen=True)
class _Adapter:
    key: AdapterKey
    max_length: int
    delta: object | None

    @property
    def split(self) -> int | None:
        return None if self.delta is None else 0

    @property
    def body(self) -> AdapterKey:
        return self.key


contents = st.builds(
    Content,
    fingerprint=st.sampled_from(["base", "other"]),
    tokenizer_digest=st.sampled_from(["tokenizer", "other"]),
    prompt=st.sampled_from(["", "query: "]),
    dtype_name=st.sampled_from(["float32", "bfloat16"]),
    max_length=st.sampled_from([16, 64]),
    own_length=st.sampled_from([8, 32, 128]),
    mode=st.sampled_from(["mean", "cls"]),
    normalize=st.booleans(),
    digest=st.sampled_from(["a", "b"]),
    delta=st.booleans(),
    split=st.sampled_from([1, 2]),
)


@settings(max_examples=300)
@given(contents, contents)
def test_contents_share_entries_when_nothing_differs_that_counts_and_never_else(one: Content, other: Content) -> None:
    cache = ActivationCache(1 << 20, Meter())

    def pooled(content: Content) -> tuple[object, ...]:
        seen = min(content.own_length, content.max_length)
        tokens = content.fingerprint, content.tokenizer_digest, content.prompt, content.dtype_name, seen
        return *tokens, content.mode, content.normalize, content.digest if content.delta else None

    def below(content: Content) -> tuple[object, ...]:
        return content.fingerprint, content.dtype_name, content.split

    assert (one.embedding(cache) == other.embedding(cache)) == (pooled(one) == pooled(other))
    assert (one.trunk(cache) == other.trunk(cache)) == (below(one) == below(other))
    assert one.embedding(cache) != other.trunk(cache)


def test_head_only_adapters_share_with_the_base_itself() -> None:
    cache = ActivationCache(1 << 20, Meter())
    spam, urgent, base = Content(digest="spam"), Content(digest="urgent"), Content(max_length=32)
    pooling = Pooling(mode="mean")
    assert spam.embedding(cache) == urgent.embedding(cache)
    assert spam.embedding(cache) == embedding_domain(base, None, pooling)  # type: ignore[arg-type]


def test_a_text_that_is_no_valid_unicode_has_a_digest_of_its_own() -> None:
    assert len(text_digest("\ud800")) == 16
    assert len({text_digest(text) for text in ("\ud800", "\ud801", "", "a", "a ", "A")}) == 6
