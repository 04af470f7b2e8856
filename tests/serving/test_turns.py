"""Whose turn it is: shares in proportion to weights, nobody starves, and who comes is not kept waiting."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.errors import SettingsInvalid
from graftwork.serving.batch import Task
from graftwork.serving.composer import PROMPT_SECONDS, PROMPT_SHARE
from graftwork.serving.limits import EngineLimits
from graftwork.serving.request import Pending
from tests.serving.queues import Clock, Machine, padded, request, scheduler

BATCH_TOKENS = 256
QUANTUM = 32
LONGEST = 200


def machine(**changes: Any) -> Machine:
    return Machine(scheduler(**{"queue_texts": 1_000_000, "batch_tokens": BATCH_TOKENS, "quantum": QUANTUM} | changes))


def tenants_of(tasks: list[Task]) -> set[str]:
    return {task.pending.tenant for task in tasks}


def jain(shares: list[float]) -> float:
    """Jain's index: 1 when all are equal, 1 / n when one has everything."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


def test_equals_with_a_backlog_get_the_same() -> None:
    served = machine()
    for _ in range(400):
        for tenant in "abcde":
            request(served.queue, tenant, lengths=(16,))
    for _ in range(80):
        served.step()
    assert max(served.tokens.values()) - min(served.tokens.values()) <= QUANTUM
    assert jain(list(served.tokens.values())) > 0.99


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_a_weight_that_is_no_share_is_refused(weight: float) -> None:
    with pytest.raises(SettingsInvalid, match="these weights cannot be used"):
        EngineLimits(weights={"fine": 1.0, "wrong": weight})


def test_twice_the_weight_is_twice_the_tokens() -> None:
    served = machine(weights={"gold": 2.0})
    for _ in range(1000):
        request(served.queue, "gold", lengths=(16,))
        request(served.queue, "plain", lengths=(16,))
    for _ in range(60):
        served.step()
        assert abs(served.tokens["gold"] / 2 - served.tokens["plain"]) <= QUANTUM


@settings(max_examples=30)
@given(
    tenants=st.lists(
        st.tuples(
            st.sampled_from([0.5, 1.0, 2.0, 3.5]),
            st.lists(st.integers(1, LONGEST), min_size=1, max_size=4),
            st.sampled_from(["one", "other"]),
        ),
        min_size=2,
        max_size=5,
    ),
    fixed=st.sampled_from([0.0, 0.005]),
)
def test_whatever_they_send_those_with_a_backlog_get_their_shares(
    tenants: list[tuple[float, list[int], str]], fixed: float
) -> None:
    """Counters of those who wait stay within what one batch may give one of them, whatever its weight."""
    weights = {str(number): weight for number, (weight, _, _) in enumerate(tenants)}
    served = machine(weights=weights)
    served.fixed = fixed
    most = (BATCH_TOKENS + LONGEST) / min(weights.values())
    for _ in range(30):
        for number, (_, lengths, base) in enumerate(tenants):
            for length in lengths:
                request(served.queue, str(number), lengths=(length,) * (BATCH_TOKENS // length + 1), base=base)
        served.step()
        got = [served.tokens[tenant] / weight for tenant, weight in weights.items()]
        assert max(got) - min(got) <= most


@settings(max_examples=60)
@given(
    flood=st.lists(st.integers(1, LONGEST), min_size=1, max_size=5),
    quiet=st.integers(1, LONGEST),
    base=st.sampled_from(["one", "other"]),
    queue=st.integers(1, 300),
    steps=st.integers(0, 20),
)
def test_who_comes_waits_for_no_more_than_the_batch_that_is_computed(
    flood: list[int], quiet: int, base: str, queue: int, steps: int
) -> None:
    served = machine()
    for number in range(queue):
        request(served.queue, "flood", lengths=(flood[number % len(flood)],), base="one")
    for _ in range(steps):
        served.step()
    served.queue.take(0)  # is being computed when the quiet one comes
    pending = request(served.queue, "quiet", lengths=(quiet,), base=base)
    assert pending in [task.pending for task in served.queue.take(0)]


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), tenants=st.integers(2, 8))
def test_nobody_starves(seed: int, tenants: int) -> None:
    """A tenant's oldest request is reached after at most as many batches as there are tenants, times its counter's lag.

    With all weights alike, between two batches that a tenant opens every other can open at most two: each raises its
    own counter, which started at most one batch above.
    """
    chance = random.Random(seed)
    served = machine()
    waited: dict[Pending, int] = {}
    for _ in range(80):
        for tenant in range(tenants):
            if sum(pending.tenant == str(tenant) for pending in waited) < 2:
                lengths = tuple(chance.choice((4, 30, 90, LONGEST)) for _ in range(chance.choice((1, 1, 5))))
                waited[request(served.queue, str(tenant), lengths, base=chance.choice(("one", "other")))] = 0
        served.step()
        waited = {pending: batches + 1 for pending, batches in waited.items() if pending.waiting}
        # Two requests of at most five rows, each row at worst a batch of its own, and two turns of every other.
        assert max(waited.values(), default=0) <= 2 * 5 * 2 * tenants


def test_a_pause_earns_no_more_than_a_batch_and_leaving_pays_no_debt() -> None:
    served = machine()
    for _ in range(400):
        request(served.queue, "busy", lengths=(16,))
    for _ in range(5):
        served.step()
    for _ in range(400):
        request(served.queue, "idle", lengths=(16,))
    for credit in (BATCH_TOKENS, 0):
        before = served.tokens.copy()
        for _ in range(5):
            served.step()
        gained = served.tokens - before
        assert -QUANTUM - 16 <= gained["idle"] - gained["busy"] <= credit + QUANTUM + 16

    debtor = machine()
    request(debtor.queue, "debtor", lengths=(16,) * 16)
    request(debtor.queue, "saver", lengths=(16,) * 64)
    counters = debtor.queue._composer.lanes
    debtor.step()
    while "debtor" in counters.counters():
        debtor.step()
    request(debtor.queue, "debtor", lengths=(16,))
    assert counters.counters()["debtor"] >= 16 * 16


def test_what_is_kept_of_tenants_that_left_is_one_entry_each_and_goes_when_it_says_nothing_more() -> None:
    served = machine()
    lanes = served.queue._composer.lanes
    for _ in range(3 * BATCH_TOKENS // 16):
        for tenant in ("a", "b", "c"):
            request(served.queue, tenant, lengths=(16,))
            served.step()
    assert len(lanes._gone_by_counter) <= 3
    assert set(lanes._gone) <= {"a", "b", "c"}
    for _ in range(3 * BATCH_TOKENS // 16):
        request(served.queue, "d", lengths=(16,))
        served.step()
    assert set(lanes._gone) <= {"d"}
    assert len(lanes._gone_by_counter) <= 1


def flooded(clock: Clock, requests: int) -> Machine:
    """A machine whose steps were measured, with a backlog of one tenant."""
    served = machine(batch_tokens=1024, batch_rows=64, quantum=128, clock=clock)
    for _ in range(5):  # until what it began with is forgotten
        for rows in range(1, 30):
            request(served.queue, "early", lengths=(16,) * rows)
            served.step()
    for _ in range(requests):
        request(served.queue, "flood", lengths=(16,) * 64)
    served.step()
    return served


def test_a_batch_for_who_just_came_is_short_while_the_time_for_that_lasts() -> None:
    clock = Clock()
    served = flooded(clock, 700)
    whole = served.fixed + served.per_token * 1024
    prompt = full = 0
    start = served.seconds
    for _ in range(300):
        request(served.queue, "quiet", lengths=(16,))
        clock.now += whole  # a batch had just begun when it came
        while (tasks := served.step()) and "quiet" not in tenants_of(tasks):
            pass
        prompt += len(tasks) == 1
        full += len(tasks) > 1
    assert prompt > 10
    assert full > 10
    # One prompt batch costs one step more, whose fixed part is given up: a part of the time in all.
    assert prompt * served.fixed * 63 / 64 <= PROMPT_SHARE * (served.seconds - start + PROMPT_SECONDS)


@settings(max_examples=40)
@given(waited=st.floats(0, 1))
def test_others_get_what_is_left_of_a_batchs_time_since_somebody_came(waited: float) -> None:
    clock = Clock()
    served = flooded(clock, 4)
    whole = served.fixed + served.per_token * 1024
    request(served.queue, "quiet", lengths=(16,))
    clock.now += waited * whole
    before = served.seconds
    assert "quiet" in tenants_of(tasks := served.step())
    row = served.per_token * 16
    alone = served.fixed + row
    left = max(alone, (1 - waited) * whole)
    assert left - row - 0.03 * whole <= served.seconds - before <= left + 0.03 * whole
    assert len(tasks) == 1 or "flood" in tenants_of(tasks)


def test_while_there_is_plenty_of_that_time_a_shorter_batch_is_aimed_at() -> None:
    clock = Clock()
    served = flooded(clock, 260)
    whole = served.fixed + served.per_token * 1024
    for _ in range(int(PROMPT_SECONDS / whole)):
        served.step()
    request(served.queue, "quiet", lengths=(16,))
    before = served.seconds
    assert "quiet" in tenants_of(served.step())
    row = served.per_token * 16
    assert 0.8 * whole - row - 0.03 * whole <= served.seconds - before <= 0.83 * whole


def test_without_a_backlog_who_just_came_gets_whole_batches() -> None:
    served = machine(batch_tokens=1024, batch_rows=64)
    for _ in range(3):
        request(served.queue, "alone", lengths=(16,) * 64)
        assert len(served.step()) == 64


def test_what_was_not_computed_is_given_back() -> None:
    queue = scheduler(batch_tokens=64, queue_texts=1000)
    cost = {"cached": 1, "cancelled": 0, "computed": 16}
    for tenant in cost:
        for _ in range(100):
            request(queue, tenant, lengths=(16,))
    given: Counter[str] = Counter()
    for _ in range(30):
        tasks = queue.take(0)
        queue.computed(tasks, [cost[task.pending.tenant] for task in tasks], 0.01)
        given.update(task.pending.tenant for task in tasks)
    assert queue._composer.lanes.counters() == {tenant: rows * cost[tenant] for tenant, rows in given.items()}
    assert given["cancelled"] > given["cached"] > given["computed"] > 0


def test_a_refund_gives_back_what_was_paid_and_no_credit() -> None:
    queue = scheduler(batch_tokens=64, queue_texts=1000)
    counters = queue._composer.lanes.counters
    request(queue, "one", lengths=(16,) * 4)
    tasks = queue.take(0)
    request(queue, "other", lengths=(16,) * 100)
    queue.computed(queue.take(0), [16] * 4, 0.01)
    request(queue, "one", lengths=(16,))
    start = counters()["one"]
    queue.computed(tasks, [0] * 4, 0.01)
    assert counters()["one"] == start


def test_padding_and_cold_loads_are_charged() -> None:
    queue = scheduler(batch_rows=2, quantum=16)
    for tenant, length in (("short", 20), ("long", 24)):
        request(queue, tenant, lengths=(length,))
        request(queue, tenant, lengths=(length,))
    tasks = queue.take(0)
    assert tenants_of(tasks) == {"short", "long"}
    counters = queue._composer.lanes.counters
    assert counters() == {"short": 24.0, "long": 24.0}
    queue.computed(tasks, [24, 24], 0.048)
    assert counters() == {"short": 24.0, "long": 24.0}
    queue.computed(tasks, [24, 24], 0.048, loading={"long": 0.5})
    assert counters() == {"short": 24.0, "long": pytest.approx(24 + 500, rel=0.01)}


def test_what_a_turn_costs_does_not_grow_with_the_tenants() -> None:
    """Counted in comparisons of tenants' entries, not in seconds."""
    looks = {}
    for tenants in (10, 1000):
        served = machine(batch_tokens=512, batch_rows=32)
        for number in range(tenants):
            request(served.queue, str(number), lengths=(16,) * 64)
        lanes = served.queue._composer.lanes
        top, count = lanes._top, Counter[str]()

        def counted(group: Any, top: Any = top, count: Counter[str] = count) -> Any:
            count["looks"] += 1
            return top(group)

        lanes._top = counted  # type: ignore[method-assign]
        for _ in range(20):
            served.step()
        looks[tenants] = count["looks"]
    assert looks[1000] <= 1.5 * looks[10]


@settings(max_examples=60)
@given(
    requests=st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c"]),
            st.sampled_from(["one", "two"]),
            st.lists(st.integers(1, 600), min_size=1, max_size=6),
        ),
        max_size=12,
    ),
    cancelled=st.sets(st.integers(0, 11)),
)
def test_every_row_is_taken_exactly_once_within_every_bound(
    requests: list[tuple[str, str, list[int]]], cancelled: set[int]
) -> None:
    served = Machine(scheduler())
    made = [request(served.queue, tenant, tuple(lengths), base=base) for tenant, base, lengths in requests]
    kept = [pending for number, pending in enumerate(made) if number not in cancelled or not pending.future.cancel()]
    seen: Counter[tuple[Pending, int]] = Counter()
    while tasks := served.step():
        assert len(tasks) <= 16
        assert len(tasks) == 1 or len(tasks) * padded(tasks) <= 256
        assert len({task.pending.base for task in tasks}) == 1
        seen.update((task.pending, task.index) for task in tasks)
    assert seen == Counter((pending, index) for pending in kept for index in range(len(pending.texts)))
    assert served.queue.depth == 0
