"""Faults in the middle of traffic: they end the requests they belong to, and everybody else gets the right answer."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from graftwork.backbones.backbone import Backbone
from graftwork.errors import DeadlineExceeded, GraftworkError, ServiceUnavailable
from graftwork.registry.artifact import Artifact
from graftwork.serving.engine import Engine, EngineLimits
from graftwork.serving.request import Row
from graftwork.serving.runner import Runner
from graftwork.serving.scheduler import Scheduler
from graftwork.serving.stacked import StackedAdapters
from tests.serving.builders import TEXTS, Made, Spec

WAIT = 60.0
FAULTS = ("the store is away", "a bad moment")
Compute = Callable[[Runner, Sequence[Row], Any], Any]


@pytest.fixture
def adapters(bert: Backbone, made: Callable[..., Made]) -> list[Made]:
    specs = [
        Spec(seed=seed, rank=(2, 9)[seed % 2], classes=2 + seed, layers=(None, (2,))[seed % 2]) for seed in range(4)
    ]
    return [made(bert, spec) for spec in (*specs, Spec(seed=4, targets=None, classes=6))]


@pytest.fixture
def engine(bert: Backbone, adapters: list[Made]) -> Iterator[Engine]:
    by_digest = {adapter.digest: adapter.artifact for adapter in adapters}
    engine = Engine(lambda _: bert, by_digest.__getitem__, EngineLimits(slots=2, cache_bytes=0))
    engine.start()
    yield engine
    engine.close(drain=False)


def ask(engine: Engine, adapter: Made, texts: Sequence[str] = TEXTS, **options: Any) -> Future[Any]:
    return engine.classify("acme", adapter.backbone.fingerprint, adapter.digest, texts, **options)


def is_right(adapter: Made, texts: Sequence[str], answer: Any) -> None:
    assert (answer.digest, answer.labels) == (adapter.digest, adapter.artifact.manifest.labels)
    wanted = [adapter.probabilities(text) for text in texts]
    np.testing.assert_allclose(answer.probabilities, wanted, rtol=1e-5, atol=1e-5)


def spoil(monkeypatch: pytest.MonkeyPatch, fails: Callable[[Sequence[Row]], BaseException | None]) -> None:
    """Let a batch fail with what `fails` gives for it."""
    compute: Compute = Runner.run

    def run(self: Runner, rows: Sequence[Row], leases: Any) -> Any:
        error = fails(rows)
        if error is not None:
            raise error
        return compute(self, rows, leases)

    monkeypatch.setattr(Runner, "run", run)


def test_a_batch_too_large_for_memory_is_computed_in_parts(
    engine: Engine, adapters: list[Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, lambda rows: MemoryError() if len(rows) > 1 else None)
    futures = [ask(engine, adapter) for adapter in adapters]
    for adapter, future in zip(adapters, futures, strict=True):
        is_right(adapter, TEXTS, future.result(timeout=WAIT))
    assert engine.stats().reruns > 0


def test_a_text_that_cannot_be_computed_ends_the_requests_that_hold_it_and_no_other(
    engine: Engine, adapters: list[Made], bert: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = tuple(bert.encode([TEXTS[1]])[0])
    spoil(monkeypatch, lambda rows: RuntimeError("poison") if any(row.ids == poison for row in rows) else None)
    asked = [(adapter, texts) for adapter in adapters for texts in (TEXTS[:3], TEXTS[2:4], TEXTS[:1])]
    futures = [ask(engine, adapter, texts) for adapter, texts in asked]
    for (adapter, texts), future in zip(asked, futures, strict=True):
        if TEXTS[1] in texts:
            with pytest.raises(GraftworkError, match="RuntimeError: poison"):
                future.result(timeout=WAIT)
        else:
            is_right(adapter, texts, future.result(timeout=WAIT))


def test_an_adapter_that_cannot_be_put_into_its_slots_fails_alone(
    engine: Engine, adapters: list[Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    pin = StackedAdapters.pin

    def broken(self: StackedAdapters, key: Any, delta: Any) -> Any:
        if key.digest == adapters[0].digest:
            raise RuntimeError("no room on the device")
        return pin(self, key, delta)

    monkeypatch.setattr(StackedAdapters, "pin", broken)
    futures = [ask(engine, adapter) for adapter in adapters]
    with pytest.raises(GraftworkError, match="no room on the device"):
        futures[0].result(timeout=WAIT)
    for adapter, future in zip(adapters[1:], futures[1:], strict=True):
        is_right(adapter, TEXTS, future.result(timeout=WAIT))
    monkeypatch.undo()
    is_right(adapters[0], TEXTS, ask(engine, adapters[0]).result(timeout=WAIT))


def test_a_caller_whose_callback_fails_harms_nobody(engine: Engine, adapters: list[Made]) -> None:
    def careless(_: Future[Any]) -> None:
        raise ValueError("a fault of the caller")

    future = ask(engine, adapters[0])
    future.add_done_callback(careless)
    is_right(adapters[0], TEXTS, future.result(timeout=WAIT))
    is_right(adapters[1], TEXTS, ask(engine, adapters[1]).result(timeout=WAIT))
    assert engine.ready() == (True, "")


def test_who_is_late_is_told_by_the_future_also_when_the_text_is_known(bert: Backbone, adapters: list[Made]) -> None:
    engine = Engine(lambda _: bert, {adapter.digest: adapter.artifact for adapter in adapters}.__getitem__)
    engine.start()
    try:
        is_right(adapters[0], TEXTS, ask(engine, adapters[0]).result(timeout=WAIT))
        is_right(adapters[0], TEXTS, ask(engine, adapters[0]).result(timeout=WAIT))
        late = ask(engine, adapters[0], deadline=time.monotonic() - 1)
        with pytest.raises(DeadlineExceeded):
            late.result(timeout=WAIT)
        assert engine.stats().refusals == {"deadline-exceeded": 1}
    finally:
        engine.close(drain=False)


def test_when_the_thread_dies_those_that_load_are_told_too_and_closing_returns(
    bert: Backbone, adapters: list[Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    may_read, reading = threading.Event(), threading.Event()
    by_digest = {adapter.digest: adapter.artifact for adapter in adapters}

    def read(digest: str) -> Artifact:
        reading.set()
        assert may_read.wait(WAIT)
        return by_digest[digest]

    engine = Engine(lambda _: bert, read)
    loads, cannot_load_any_more = ask(engine, adapters[0]), ask(engine, adapters[1])
    assert reading.wait(WAIT)

    def dead(self: Scheduler, timeout: float) -> Any:
        raise SystemError("a fault in the scheduler")

    monkeypatch.setattr(Scheduler, "take", dead)
    engine.start()
    for future in (loads, cannot_load_any_more):
        with pytest.raises(ServiceUnavailable, match="a fault in the scheduler"):
            future.result(timeout=WAIT)
    may_read.set()
    assert engine.ready()[0] is False
    assert engine.stats().queue_depth == 0
    start = time.monotonic()
    engine.close(timeout=WAIT)
    assert time.monotonic() - start < WAIT / 2
    assert "a fault in the scheduler" in engine.ready()[1]


@pytest.mark.parametrize("seed", [0, 1])
def test_whatever_fails_when_every_request_ends_once_with_its_own_answer_or_its_own_error(
    seed: int, bert: Backbone, adapters: list[Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loads, batches and slots fail at random, callers cancel and are late; six threads ask all the while."""
    by_digest = {adapter.digest: adapter.artifact for adapter in adapters}
    dice, lock = random.Random(seed), threading.Lock()

    def unlucky(share: float) -> bool:
        with lock:
            return dice.random() < share

    def read(digest: str) -> Artifact:
        if unlucky(0.2):
            raise OSError(FAULTS[0])
        return by_digest[digest]

    def flaky(rows: Sequence[Row]) -> BaseException | None:
        return RuntimeError(FAULTS[1]) if unlucky(0.1) else None

    for adapter, text in itertools.product(adapters, TEXTS):
        adapter.probabilities(text)
    spoil(monkeypatch, flaky)
    # Room for two adapters, so that they are read again and again.
    largest = max(adapter.loaded.nbytes for adapter in adapters)
    engine = Engine(
        lambda _: bert, read, EngineLimits(slots=1, host_bytes=2 * largest, batch_rows=7, cache_bytes=4_000)
    )
    ends: Counter[str] = Counter()

    def customer(number: int) -> None:
        mine = random.Random(seed * 100 + number)
        for _ in range(40):
            adapter, texts = mine.choice(adapters), mine.choices(TEXTS, k=mine.randint(1, 4))
            late = time.monotonic() + mine.uniform(0, 0.01) if mine.random() < 0.1 else None
            future = ask(engine, adapter, texts, deadline=late)
            if mine.random() < 0.1:
                future.cancel()
            try:
                is_right(adapter, texts, future.result(timeout=WAIT))
                end = "answered"
            except CancelledError:
                end = "cancelled"
            except DeadlineExceeded:
                end = "late"
            except GraftworkError as error:
                end = "failed" if any(fault in error.message for fault in FAULTS) else error.message
            with lock:
                ends[end] += 1

    engine.start()
    try:
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(customer, range(6)))
        stats = engine.stats()
        assert engine.ready() == (True, "")
    finally:
        engine.close(drain=False)
    assert set(ends) <= {"answered", "cancelled", "late", "failed"}
    assert ends.total() == stats.requests == 240
    assert (ends["answered"], ends["cancelled"]) == (stats.answers, stats.cancelled)
    assert ends["late"] + ends["failed"] == sum(stats.refusals.values())
    assert min(ends["answered"], ends["failed"], stats.reruns) > 0
    assert stats.queue_depth == 0
