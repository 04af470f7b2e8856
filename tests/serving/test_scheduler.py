from __future__ import annotations

import threading
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.errors import DeadlineExceeded, QueueFull, RequestTooLarge, ServiceUnavailable
from graftwork.serving.batch import LENGTH_CLASSES, Task, length_class
from graftwork.serving.request import Pending
from tests.serving.queues import Clock, Machine, request, scheduler


def finish(tasks: list[Task]) -> None:
    for task in tasks:
        task.pending.future.cancel()


def test_a_full_queue_refuses_at_once_and_only_its_own_tenant() -> None:
    queue = scheduler(queue_texts=3)
    first = request(queue, lengths=(8, 8))
    request(queue)
    with pytest.raises(QueueFull) as caught:
        request(queue)
    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after <= 60
    request(queue, "globex")
    assert queue.depth == 4
    first.future.cancel()
    assert queue.depth == 2
    request(queue)


def test_retry_after_follows_the_pace() -> None:
    queue = scheduler(queue_texts=10)
    request(queue, lengths=(8,) * 10)
    tasks = queue.take(0)
    for _ in range(200):
        queue.computed(tasks[:1], [8], 0.5)
    with pytest.raises(QueueFull) as caught:
        request(queue)
    assert caught.value.retry_after == pytest.approx(5.0, rel=0.01)


def test_more_texts_than_a_queue_can_hold_are_too_large() -> None:
    with pytest.raises(RequestTooLarge, match="4 texts; 3 are allowed"):
        request(scheduler(queue_texts=3), lengths=(8,) * 4)


def test_places_are_kept_until_the_request_ends_and_not_only_while_it_waits() -> None:
    queue = scheduler(queue_texts=1)
    pending = request(queue)
    assert len(queue.take(0)) == 1
    with pytest.raises(QueueFull):
        request(queue)
    pending.fail(ServiceUnavailable("gone"))
    request(queue)


def test_a_cancelled_request_is_never_computed() -> None:
    queue = scheduler()
    cancelled, kept = request(queue), request(queue)
    assert cancelled.future.cancel()
    assert [task.pending for task in queue.take(0)] == [kept]


def test_cancelling_a_large_request_drops_the_rows_that_are_left() -> None:
    queue = scheduler(batch_rows=2)
    pending = request(queue, lengths=(8,) * 6)
    assert len(queue.take(0)) == 2
    pending.future.cancel()
    assert queue.take(0) == []
    assert queue.depth == 0


def test_an_expired_request_is_told_so_and_never_computed() -> None:
    clock = Clock()
    queue = scheduler(clock=clock)
    late, kept = request(queue, deadline=clock.now + 1), request(queue, deadline=clock.now + 2)
    clock.now += 1
    assert [task.pending for task in queue.take(0)] == [kept]
    assert isinstance(late.future.exception(timeout=0), DeadlineExceeded)
    assert queue.depth == 1


def test_a_request_that_still_loads_expires_too() -> None:
    clock = Clock()
    queue = scheduler(clock=clock)
    pending = Pending("acme", "base", "digest", ["text"], head=True, deadline=clock.now + 1)
    queue.admit(pending)
    assert queue.take(0) == []
    assert not pending.ended
    clock.now += 1
    assert queue.take(0) == []
    assert isinstance(pending.future.exception(timeout=0), DeadlineExceeded)


def test_closing_refuses_the_new_and_keeps_the_admitted() -> None:
    queue = scheduler()
    pending = request(queue)
    queue.close(ServiceUnavailable("stopping"))
    queue.close(ServiceUnavailable("something else"))
    with pytest.raises(ServiceUnavailable, match="stopping"):
        request(queue)
    assert [task.pending for task in queue.take(0)] == [pending]
    assert not queue.drained(0)
    pending.future.cancel()
    assert queue.drained(0)


def test_a_lone_request_is_taken_as_soon_as_it_comes_and_waits_for_no_other() -> None:
    queue = scheduler()
    taken: list[list[Task]] = []
    thread = threading.Thread(target=lambda: taken.append(queue.take(timeout=600)))
    thread.start()
    pending = request(queue)
    thread.join(timeout=60)
    assert [[task.pending for task in tasks] for tasks in taken] == [[pending]]


def test_a_batch_is_for_one_base() -> None:
    queue = scheduler()
    for index in range(6):
        request(queue, f"tenant-{index % 2}", base=("one", "other")[index % 3 == 0])
    seen = [{task.pending.base for task in queue.take(0)} for _ in range(2)]
    assert sorted(map(sorted, seen)) == [["one"], ["other"]]
    assert queue.take(0) == []


def test_before_anything_is_measured_a_batch_holds_its_longest_rows_and_those_two_classes_below() -> None:
    queue = scheduler(batch_tokens=100_000, batch_rows=100)
    request(queue, lengths=(500, 10, 400, 300, 12, 256))
    lengths = [sorted(len(task.row.ids) for task in queue.take(0)) for _ in range(3)]
    assert lengths == [[256, 300, 400, 500], [10, 12], []]


def test_neighbouring_lengths_join_where_their_padding_costs_less_than_another_step() -> None:
    queue = scheduler(batch_tokens=1024, batch_rows=100, queue_texts=10_000)
    machine = Machine(queue, fixed=0.005, per_token=0.00005)  # a step costs as much as 100 tokens
    for rows in range(1, 34):
        request(queue, lengths=(30,) * rows)
        assert len(machine.step()) == rows
    request(queue, lengths=(30, 40))
    assert sorted(len(task.row.ids) for task in machine.step()) == [30, 40]
    request(queue, lengths=(30,) * 200 + (40,) * 100)
    assert {len(task.row.ids) for task in machine.step()} == {40}


def test_a_row_longer_than_the_budget_is_a_batch_of_its_own() -> None:
    queue = scheduler(batch_tokens=64)
    request(queue, lengths=(500, 500))
    assert [len(queue.take(0)) for _ in range(3)] == [1, 1, 0]


@settings(max_examples=60)
@given(
    requests=st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c"]),
            st.sampled_from(["one", "two"]),
            st.lists(st.integers(1, 600), min_size=1, max_size=6),
        ),
        max_size=12,
    )
)
def test_every_row_is_taken_exactly_once_within_every_bound(requests: list[tuple[str, str, list[int]]]) -> None:
    queue = scheduler()
    made = [request(queue, tenant, tuple(lengths), base=base) for tenant, base, lengths in requests]
    seen: Counter[tuple[int, int]] = Counter()
    while tasks := queue.take(0):
        lengths = [len(task.row.ids) for task in tasks]
        assert len(tasks) <= 16
        assert len(tasks) == 1 or len(tasks) * max(lengths) <= 256
        assert length_class(max(lengths)) - length_class(min(lengths)) <= 2
        assert len({task.pending.base for task in tasks}) == 1
        seen.update((id(task.pending), task.index) for task in tasks)
    assert seen == Counter((id(pending), index) for pending in made for index in range(len(pending.texts)))


def test_classes_grow_by_half_at_most() -> None:
    assert all(above <= 1.5 * below for below, above in pairwise(LENGTH_CLASSES))
    assert length_class(10**6) == len(LENGTH_CLASSES)
