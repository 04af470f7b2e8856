"""`fit_temperature`: it finds what was put in, and never says anything absurd."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import log_softmax

from graftwork.evaluation import fit_temperature


def drawn(rows, classes, seed):
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (rows, classes))
    return logits, (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5, 6.0])
def test_it_finds_the_factor_the_logits_were_multiplied_by(temperature):
    logits, truth = drawn(20_000, 5, seed=1)
    assert fit_temperature(logits * temperature, truth) == pytest.approx(temperature, rel=0.03)


def test_it_lowers_the_loss_of_rows_it_has_not_seen():
    logits, truth = drawn(1100, 4, seed=2)
    logits = logits * 3
    temperature = fit_temperature(logits[:100], truth[:100])

    def loss(scale):
        return -log_softmax(logits[100:] / scale, axis=1)[np.arange(1000), truth[100:]].mean()

    assert loss(temperature) < loss(1.0) - 0.2


def test_rows_that_are_all_right_do_not_call_for_infinite_confidence():
    truth = np.arange(40) % 2
    logits = np.where(np.arange(2) == truth[:, None], 1.0, -1.0)
    # The best confidence is then (40 + 1) / (40 + 2), a gap of log(41) between the logits.
    assert fit_temperature(logits, truth) == pytest.approx(2 / np.log(41), rel=1e-4)


def test_too_few_rows_or_logits_that_say_nothing_leave_it_at_one():
    logits, truth = drawn(19, 3, seed=0)
    assert fit_temperature(logits * 10, truth) == 1.0
    assert fit_temperature(np.zeros((50, 3)), np.zeros(50, dtype=np.int64)) == 1.0
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, dtype=np.int64)) == 1.0


@given(
    hnp.arrays(np.float32, (25, 3), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    hnp.arrays(np.int64, (25,), elements=st.integers(0, 2)),
)
@settings(max_examples=100)
def test_any_finite_logits_give_a_temperature_within_bounds(logits, truth):
    temperature = fit_temperature(logits, truth)
    assert 0.05 <= temperature <= 20
    assert temperature == round(temperature, 6)
    assert temperature == fit_temperature(logits, truth)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        fit_temperature(np.array([[np.nan, 0.0]]), np.array([0]))
    with pytest.raises(ValueError, match="do not fit"):
        fit_temperature(np.zeros((3, 2)), np.zeros(2, dtype=np.int64))
