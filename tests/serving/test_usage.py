"""Use is counted by tenant; names are few, and what is shown only ever grows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from graftwork.serving.usage import OTHERS, Usage


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def tokens(usage: Usage) -> dict[str, int]:
    return {tenant: use.tokens for tenant, use in usage.snapshot().items()}


def test_those_that_use_most_are_named_and_the_others_counted_together() -> None:
    clock = Clock()
    usage = Usage(2, clock)
    for tenant, amount in (("a", 10), ("b", 20), ("c", 500), ("d", 30), ("a", 1)):
        usage.add(tenant, 1, amount)
    assert tokens(usage) == {"a": 11, "b": 20, OTHERS: 530}
    assert {tenant: use.texts for tenant, use in usage.snapshot().items()} == {"a": 2, "b": 1, OTHERS: 2}
    clock.now = 60.0
    # c takes the place of the least, and is counted by name from now on.
    assert tokens(usage) == {"b": 20, "c": 0, OTHERS: 530}
    usage.add("c", 1, 7)
    usage.add("a", 1, 5)
    assert tokens(usage) == {"b": 20, "c": 7, OTHERS: 535}


def test_names_do_not_change_for_a_small_difference_or_before_a_minute_has_passed() -> None:
    clock = Clock()
    usage = Usage(1, clock)
    usage.add("a", 1, 100)
    usage.add("b", 1, 1_000)
    clock.now = 59.0
    assert tokens(usage) == {"a": 100, OTHERS: 1_000}
    usage.add("a", 1, 400)
    clock.now = 60.0
    assert tokens(usage) == {"a": 500, OTHERS: 1_000}  # 1,000 is twice 500, not more


def test_no_names_at_all() -> None:
    usage = Usage(0, Clock())
    usage.add("a", 2, 10)
    assert tokens(usage) == {OTHERS: 10}


@given(
    uses=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 1_000), st.booleans()), max_size=60),
    names=st.integers(0, 3),
)
def test_what_is_shown_is_bounded_and_grows(uses: list[tuple[str, int, bool]], names: int) -> None:
    clock = Clock()
    usage = Usage(names, clock)
    before = tokens(usage)
    for tenant, amount, later in uses:
        usage.add(tenant, 1, amount)
        clock.now += 61.0 * later
        now = tokens(usage)
        assert len(now) <= names + 1
        assert all(now[name] >= before[name] for name in now.keys() & before.keys())
        before = now
