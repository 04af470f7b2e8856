from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from graftwork.serving.deadlines import Deadlines
from graftwork.serving.request import Pending


def pending(deadline: float | None) -> Pending:
    return Pending("acme", "base", None, ["text"], head=False, deadline=deadline)


@given(st.lists(st.tuples(st.sampled_from(["add", "end", "pass"]), st.integers(0, 20))))
def test_as_a_list_that_is_searched(actions: list[tuple[str, int]]) -> None:
    deadlines = Deadlines()
    watched: list[Pending] = []
    for action, number in actions:
        if action == "add":
            watched.append(pending(float(number)))
            deadlines.add(watched[-1])
        elif action == "end" and watched:
            ended = watched.pop(number % len(watched))
            ended.future.cancel()
            deadlines.ended(ended)
        elif action == "pass":
            passed = deadlines.passed(float(number))
            assert set(passed) == {each for each in watched if each.expired(float(number))}
            for each in passed:
                watched.remove(each)
                each.future.cancel()
                deadlines.ended(each)
        assert len(deadlines) <= 2 * len(watched) + 1
        if watched:
            earliest = deadlines.next
            assert earliest is not None
            assert earliest <= min(each.deadline or 0.0 for each in watched)


def test_what_has_no_deadline_is_not_kept() -> None:
    deadlines = Deadlines()
    deadlines.add(pending(None))
    deadlines.ended(pending(None))
    assert len(deadlines) == 0
    assert deadlines.next is None
