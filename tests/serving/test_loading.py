"""Loads are shared, given up when they hang, and never use up the threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

from graftwork.errors import StorageTimeout
from graftwork.serving import loading
from graftwork.serving.loading import LoaderPool, SingleFlight

WAIT = 30.0


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    """Loads that hang wait for this; the end of the test lets them go."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def pool_of(stuck: threading.Event) -> Iterator[Callable[..., LoaderPool]]:
    pools: list[LoaderPool] = []

    def make(threads: int, patience: float = 0.05) -> LoaderPool:
        pools.append(LoaderPool(threads, "test-loader", patience=patience))
        return pools[-1]

    yield make
    stuck.set()
    for pool in pools:
        pool.shutdown()
    for thread in threading.enumerate():
        if thread.name.startswith("test-loader"):
            thread.join(WAIT)
            assert not thread.is_alive()


def gives_up(future: Future[Any]) -> str:
    with pytest.raises(StorageTimeout) as told:
        future.result(WAIT)
    assert told.value.retry_after == 0.05
    return str(told.value)


def test_a_load_that_hangs_is_given_up_and_its_thread_replaced(
    pool_of: Callable[..., LoaderPool], stuck: threading.Event
) -> None:
    pool = pool_of(1)
    for _ in range(3):
        assert "within 0.05 seconds" in gives_up(pool.submit(stuck.wait))
        assert pool.submit(lambda: "answer").result(WAIT) == "answer"


def test_a_load_that_waits_for_a_thread_is_given_up_in_time_too(
    pool_of: Callable[..., LoaderPool], stuck: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "MOST_HUNG", 1)
    pool = pool_of(1)
    for _ in range(2):
        gives_up(pool.submit(stuck.wait))
    landed: list[str] = []
    ran: list[str] = []
    gives_up(pool.submit(lambda: ran.append("ran"), lambda: landed.append("landed")))
    assert (landed, ran) == (["landed"], [])
    stuck.set()
    assert pool.submit(lambda: "answer").result(WAIT) == "answer"


def test_threads_that_come_back_do_not_add_up(pool_of: Callable[..., LoaderPool], stuck: threading.Event) -> None:
    pool = pool_of(2)
    hanging = [pool.submit(stuck.wait) for _ in range(2)]
    for future in hanging:
        gives_up(future)
    running, most = 0, 0
    lock, both = threading.Lock(), threading.Barrier(2, timeout=WAIT)

    def count() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both.wait()
        with lock:
            running -= 1

    stuck.set()
    pool._patience = WAIT
    for counted in [pool.submit(count) for _ in range(20)]:
        counted.result(WAIT)
    assert most == 2


def test_while_a_load_hangs_those_who_ask_again_are_told_at_once(
    pool_of: Callable[..., LoaderPool], stuck: threading.Event
) -> None:
    flights: SingleFlight[str, str] = SingleFlight(pool_of(1))
    landed = threading.Event()

    def hang() -> str:
        stuck.wait()
        landed.set()
        return "late"

    hanging = flights.run("key", hang)
    gives_up(hanging)
    assert flights.run("key", lambda: "never run") is hanging
    assert flights.run("other", lambda: "other").result(WAIT) == "other"
    stuck.set()
    assert landed.wait(WAIT)
    while (again := flights.run("key", lambda: "anew")) is hanging:  # it lands a moment after it has returned
        pass
    assert again.result(WAIT) == "anew"


@pytest.mark.parametrize("fail", [True, False])
def test_what_has_ended_is_forgotten_before_anybody_is_told(pool_of: Callable[..., LoaderPool], fail: bool) -> None:
    flights: SingleFlight[str, str] = SingleFlight(pool_of(1, WAIT))
    begun = threading.Event()

    def load() -> str:
        assert begun.wait(WAIT)
        if fail:
            raise ZeroDivisionError
        return "first"

    again: list[Future[str]] = []
    told = threading.Event()

    def ask_again(_: object) -> None:
        again.append(flights.run("key", lambda: "second"))
        told.set()

    first = flights.run("key", load)
    assert flights.run("key", load) is first
    first.add_done_callback(ask_again)
    begun.set()
    assert told.wait(WAIT)
    assert again[0].result(WAIT) == "second"
    assert (first.exception(WAIT) is not None) is fail


def test_shutting_down_cancels_what_waits_and_lets_go_of_what_runs(
    pool_of: Callable[..., LoaderPool], stuck: threading.Event
) -> None:
    pool = pool_of(1, WAIT)
    begun = threading.Event()

    def run() -> bool:
        begun.set()
        return stuck.wait()

    running, waiting = pool.submit(run), pool.submit(lambda: True)
    assert begun.wait(WAIT)
    pool.shutdown()
    with pytest.raises(CancelledError):
        waiting.result(WAIT)
    with pytest.raises(RuntimeError, match="have stopped"):
        pool.submit(lambda: True)
    stuck.set()
    assert running.result(WAIT) is True
