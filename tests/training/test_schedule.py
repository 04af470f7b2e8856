from __future__ import annotations

from itertools import pairwise

import pytest

from graftwork.training.schedule import Shape, rate_factor


def rates(shape: Shape, total: int = 100, warmup_share: float = 0.1) -> list[float]:
    return [rate_factor(step, total, warmup_share=warmup_share, shape=shape) for step in range(total)]


def test_a_cosine() -> None:
    found = rates("cosine")
    assert found[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert found[10] == pytest.approx(1.0)
    assert found[55] == pytest.approx(0.5)
    assert found[99] < 0.001
    assert all(later <= earlier for earlier, later in pairwise(found[10:]))


def test_a_line_and_none() -> None:
    assert rates("linear")[:11] == rates("cosine")[:11] == rates("constant")[:11]
    assert rates("linear")[10:] == pytest.approx([1 - step / 90 for step in range(90)])
    assert rates("constant")[10:] == [1.0] * 90


def test_the_first_step_moves_something_and_one_step_is_enough() -> None:
    assert rates("cosine", warmup_share=0.0)[0] == 1.0
    assert rates("linear", total=1) == [1.0]
