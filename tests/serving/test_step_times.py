from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.serving.step_times import StepTimes
from tests.serving.queues import Machine, padded, request, scheduler


def test_nothing_measured_limits_nothing() -> None:
    assert StepTimes().tokens_within(2, 0.01) is None
    assert StepTimes().seconds(2, 100) == 0.0


def test_steps_of_one_size_are_taken_to_cost_in_proportion() -> None:
    times = StepTimes()
    for _ in range(50):
        times.learn(2, 1000, 0.05)
    assert times.seconds(2, 1000) == pytest.approx(0.05, rel=0.05)
    assert times.seconds(2, 500) == pytest.approx(0.025, rel=0.05)


@given(
    fixed=st.floats(0, 0.02),
    per_token=st.floats(1e-6, 1e-3),
    sizes=st.lists(st.integers(10, 2000), min_size=2, max_size=5, unique=True),
)
def test_a_line_is_found_and_followed_when_it_moves(fixed: float, per_token: float, sizes: list[int]) -> None:
    times = StepTimes()
    for _ in range(100):
        for size in sizes:
            times.learn(2, size, 5 * (fixed + per_token * size))
    for _ in range(400):
        for size in sizes:
            times.learn(2, size, fixed + per_token * size)
    assert all(times.seconds(2, size) == pytest.approx(fixed + per_token * size, rel=0.05) for size in sizes)


def test_long_rows_cost_more_a_token_and_the_fixed_part_is_that_of_all() -> None:
    times = StepTimes()
    for tokens in (32, 256, 1024) * 100:
        times.learn(2, tokens, 0.01 + 0.0001 * tokens)
        times.learn(8, tokens, 0.01 + 0.00014 * tokens)
    assert times.fixed == pytest.approx(0.01, rel=0.05)
    assert times.per_token(2) == pytest.approx(0.0001, rel=0.05)
    assert times.per_token(8) == times.per_token(11) == pytest.approx(0.00014, rel=0.05)


@given(st.lists(st.tuples(st.integers(1, 2000), st.floats(1e-6, 1.0)), min_size=1, max_size=30))
def test_whatever_was_measured_no_part_is_negative(steps: list[tuple[int, float]]) -> None:
    times = StepTimes()
    for tokens, seconds in steps:
        times.learn(2, tokens, seconds)
    assert times.per_token(2) >= 0
    assert times.fixed >= -1e-12
    assert (times.tokens_within(2, 0.01) or 0) >= 0


@pytest.mark.parametrize("budget", [0.02, 0.05])
def test_batches_are_filled_up_to_their_time(budget: float) -> None:
    queue = scheduler(batch_tokens=4096, batch_rows=512, queue_texts=100_000, batch_seconds=budget)
    machine = Machine(queue, fixed=0.005, per_token=0.00005)
    request(queue, lengths=(32,) * 8)
    machine.step()
    seconds = []
    request(queue, lengths=(32,) * 10_000)
    for _ in range(100):
        before = machine.seconds
        machine.step()
        seconds.append(machine.seconds - before)
    row = 32 * machine.per_token
    assert all(budget - 2 * row <= step <= budget + row for step in seconds[50:])


def test_a_batch_holds_one_row_at_least_however_little_time_there_is() -> None:
    queue = scheduler(batch_seconds=0.0001)
    machine = Machine(queue)
    request(queue, lengths=(32,) * 10)
    assert [len(machine.step()) for _ in range(4)] == [8, 1, 1, 0]


def test_what_is_learned_of_one_length_serves_for_others_until_they_are_measured() -> None:
    queue = scheduler(batch_tokens=4096, batch_rows=512, queue_texts=100_000, batch_seconds=0.02)
    machine = Machine(queue, fixed=0.0, per_token=0.00005)
    request(queue, lengths=(32,) * 8)
    machine.step()
    request(queue, lengths=(100,) * 50)
    tasks = machine.step()
    assert padded(tasks) == 100
    assert len(tasks) == 4
