"""Adapters come from the store in good time, leave when nobody asks for them, and stay when they are pinned."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from graftwork.backbones.backbone import Backbone
from graftwork.errors import BlobDamaged, SettingsInvalid, StorageTimeout
from graftwork.registry.artifact import Artifact
from graftwork.serving.adapters import AdapterCache
from graftwork.serving.delta import adaptable
from graftwork.serving.engine import Engine, EngineLimits
from graftwork.serving.keys import AdapterKey
from graftwork.serving.loading import LoaderPool
from graftwork.serving.stacked import StackedAdapters
from graftwork.serving.stats import Meter
from tests.serving.builders import TEXTS, Made, Spec

WAIT = 60.0
DAY = 86_400.0


class Store:
    """Artifacts by digest; those that are `stuck` are given when that is set."""

    def __init__(self) -> None:
        self.artifacts: dict[str, Artifact] = {}
        self.reads: list[str] = []
        self.stuck: dict[str, threading.Event] = {}

    def __call__(self, digest: str) -> Artifact:
        self.reads.append(digest)
        if digest in self.stuck:
            assert self.stuck[digest].wait(WAIT)
        if digest not in self.artifacts:
            raise BlobDamaged("the blob is gone")
        return self.artifacts[digest]


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine_of(bert: Backbone, store: Store, clock: Clock) -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def build(*, start: bool = True, **limits: Any) -> Engine:
        engines.append(Engine(lambda _: bert, store, EngineLimits(**limits), clock=clock))
        if start:
            engines[-1].start()
        return engines[-1]

    yield build
    for event in store.stuck.values():
        event.set()
    for engine in engines:
        engine.close(drain=False)


@pytest.fixture
def several(bert: Backbone, made: Callable[..., Made], store: Store) -> list[Made]:
    adapters = [made(bert, Spec(seed=seed)) for seed in range(40, 44)]
    store.artifacts.update({adapter.digest: adapter.artifact for adapter in adapters})
    return adapters


def ask(engine: Engine, adapter: Made) -> Any:
    return engine.classify("acme", adapter.backbone.fingerprint, adapter.digest, TEXTS[:2])


def right(answer: Any, adapter: Made) -> None:
    wanted = [adapter.probabilities(text) for text in TEXTS[:2]]
    np.testing.assert_allclose(answer.probabilities, wanted, rtol=1e-5, atol=1e-5)


def check(engine: Engine, adapter: Made) -> None:
    right(ask(engine, adapter).result(WAIT), adapter)


def step_until(engine: Engine, done: Callable[[], bool]) -> None:
    """Step an engine that has no thread."""
    give_up = time.monotonic() + WAIT
    while not done():
        engine.step(0.01)
        assert time.monotonic() < give_up


def test_an_adapter_is_loaded_while_its_request_waits(engine_of: Callable[..., Engine], several: list[Made]) -> None:
    engine = engine_of(start=False)
    futures = [ask(engine, adapter) for adapter in several]
    give_up = time.monotonic() + WAIT
    while engine.stats().host_adapters < len(several):  # nothing is computed: the engine does not run
        assert time.monotonic() < give_up
    assert not any(future.done() for future in futures)
    engine.start()
    for future, adapter in zip(futures, several, strict=True):
        right(future.result(WAIT), adapter)


def test_idle_adapters_leave_slots_and_host_memory_and_come_back(
    engine_of: Callable[..., Engine], store: Store, clock: Clock, several: list[Made]
) -> None:
    engine = engine_of(start=False, cache_bytes=0)
    one, two = several[:2]
    for adapter in (one, two):
        future = ask(engine, adapter)
        step_until(engine, future.done)
    clock.now += DAY - 3_600
    future = ask(engine, two)
    step_until(engine, future.done)
    clock.now += 3_599
    engine.step()
    assert (engine.stats().resident_adapters, engine.stats().host_adapters) == (2, 2)
    clock.now += 120
    engine.step()
    stats = engine.stats()
    assert (stats.resident_adapters, stats.host_adapters) == (1, 1)
    assert (stats.slot_offloads, stats.host_offloads) == (1, 1)
    assert (stats.slot_evictions, stats.host_evictions) == (0, 0)
    clock.now += 2 * DAY
    engine.step()
    stats = engine.stats()
    assert (stats.resident_adapters, stats.resident_bytes, stats.host_adapters, stats.host_bytes) == (0, 0, 0, 0)
    for adapter in (one, two):
        future = ask(engine, adapter)
        step_until(engine, future.done)
        right(future.result(), adapter)
    assert store.reads == [one.digest, two.digest] * 2


def test_pinned_adapters_outlast_eviction_and_idleness(
    engine_of: Callable[..., Engine], store: Store, clock: Clock, several: list[Made]
) -> None:
    size = several[0].loaded.nbytes
    engine = engine_of(slots=2, host_bytes=2 * size, cache_bytes=0)
    engine.pin(several[0].backbone.fingerprint, several[0].digest).result(WAIT)
    assert (engine.stats().resident_adapters, engine.stats().host_adapters) == (1, 1)
    for adapter in (*several[1:], several[1], several[2]):
        check(engine, adapter)
    clock.now += 2 * DAY
    check(engine, several[0])
    assert store.reads.count(several[0].digest) == 1
    assert store.reads.count(several[1].digest) == 2
    assert engine.stats().host_bytes <= 2 * size


def test_pins_that_leave_no_room_are_refused(engine_of: Callable[..., Engine], several: list[Made]) -> None:
    size = several[0].loaded.nbytes

    def pin(engine: Engine, adapter: Made) -> None:
        engine.pin(adapter.backbone.fingerprint, adapter.digest).result(WAIT)

    narrow = engine_of(slots=2)
    pin(narrow, several[0])
    pin(narrow, several[0])
    with pytest.raises(SettingsInvalid, match="2 pinned adapters of rank 8 would leave no slot"):
        pin(narrow, several[1])
    check(narrow, several[2])
    small = engine_of(host_bytes=2 * size - 1)
    pin(small, several[0])
    with pytest.raises(SettingsInvalid, match=f"take {2 * size:,} bytes of host memory"):
        pin(small, several[1])
    check(small, several[1])


def test_an_adapter_larger_than_the_rest_of_the_slots_is_served_beside_a_pinned_one(
    engine_of: Callable[..., Engine], bert: Backbone, made: Callable[..., Made], store: Store, several: list[Made]
) -> None:
    large = made(bert, Spec(seed=50, rank=30))
    store.artifacts[large.digest] = large.artifact
    engine = engine_of(slot_bytes=int(2.5 * several[0].loaded.delta.nbytes))  # type: ignore[union-attr]
    engine.pin(bert.fingerprint, several[0].digest).result(WAIT)
    for adapter in (large, several[1], large, several[0]):
        check(engine, adapter)


def test_a_pin_that_cannot_be_loaded_is_told(engine_of: Callable[..., Engine], several: list[Made]) -> None:
    engine = engine_of()
    with pytest.raises(BlobDamaged):
        engine.pin(several[0].backbone.fingerprint, "0" * 64).result(WAIT)
    check(engine, several[0])


def test_a_store_that_hangs_ends_its_requests_and_no_others(
    engine_of: Callable[..., Engine], store: Store, several: list[Made]
) -> None:
    engine = engine_of(loader_threads=1, load_seconds=0.05)
    stuck = several[0].digest
    store.stuck[stuck] = threading.Event()
    for _ in range(3):
        with pytest.raises(StorageTimeout, match="did not give"):
            ask(engine, several[0]).result(WAIT)
    assert store.reads == [stuck]  # later requests do not hang, too
    assert engine.stats().refusals == {"storage-timeout": 3}
    store.stuck[stuck].set()
    step = 0
    while True:  # what came late is kept and not read again
        try:
            right(ask(engine, several[0]).result(WAIT), several[0])
            break
        except StorageTimeout:
            step += 1
            assert step < 100_000
    assert store.reads == [stuck]


def calls_of(work: Callable[[], object]) -> int:
    """How many functions, Python's and C's, are called.

    The collector is off meanwhile: it comes when it likes, and calls what libraries registered with it.
    """
    calls = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    gc.disable()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return calls


@pytest.mark.parametrize("room", [True, False])
def test_loading_does_the_same_work_however_many_are_loaded(
    room: bool, bert: Backbone, made: Callable[..., Made], store: Store, several: list[Made]
) -> None:
    adapter = several[0]
    loaded, places = adapter.loaded, adaptable(bert)
    assert loaded.delta is not None
    work = []
    for others in (3, 3, 30, 300):  # the first time, modules are imported
        pool = LoaderPool(1, "test-loader")
        capacity = others + 1 if room else others
        cache = AdapterCache(store, pool=pool, nbytes=capacity * loaded.nbytes, meter=Meter())
        stack = StackedAdapters(device=torch.device("cpu"), slots=capacity, nbytes=1 << 30, meter=Meter())
        for number in range(others):
            key = AdapterKey(f"{number}", bert.fingerprint)
            cache._keep(type(loaded)(key, loaded.labels, loaded.pooling, loaded.max_length, loaded.head, loaded.delta))
            lease = stack.pin(key, loaded.delta)
            assert lease is not None
            stack.release(lease)
        in_memory = calls_of(lambda: cache._load(adapter.key, bert, places))  # noqa: B023 - called at once
        in_slots = calls_of(lambda: stack.pin(adapter.key, loaded.delta))  # type: ignore[arg-type] # noqa: B023
        assert (len(cache), len(stack)) == (capacity, capacity)
        work.append((in_memory, in_slots))
        pool.shutdown()
    assert work[1] == work[2] == work[3]
