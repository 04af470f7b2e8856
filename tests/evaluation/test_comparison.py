"""Several classifiers on the same rows: corrected tests, verdicts that hold, hints that are right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.evaluation.compare import mcnemar, paired_difference
from graftwork.evaluation.comparison import compare_classifiers, holm, rows_needed
from graftwork.evaluation.tables import comparison_table
from tests.evaluation.samples import certain


def with_errors(truth, wrong, classes=2):
    """A classifier that errs on the rows `wrong` and on no other."""
    answers = truth.copy()
    answers[wrong] = (answers[wrong] + 1) % classes
    return certain(answers.tolist(), classes, 0.9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_its_step_down_rule_rejects(p_values):
    """The rule: from the smallest on, reject while p <= level / (number of those left); stop at the first failure."""
    corrected = holm(p_values)
    for level in (0.01, 0.05, 0.2, 0.7):
        rejected = set()
        for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
            if p_values[place] * (len(p_values) - rank) > level:
                break
            rejected.add(place)
        assert {place for place, p_value in enumerate(corrected) if p_value <= level} == rejected


def test_of_many_classifiers_one_that_would_pass_alone_does_not():
    truth = np.zeros(200, dtype=np.int64)
    start = with_errors(truth, np.arange(40))
    lucky = with_errors(truth, np.r_[np.arange(33), 40:41])  # 7 mended, 1 broken: p = 0.07; 8 and 1: 0.039
    luckier = with_errors(truth, np.r_[np.arange(32), 40:41])
    assert mcnemar(8, 1) == pytest.approx(0.0390625)
    alone = compare_classifiers({"start": start, "new": luckier}, truth, ["ham", "spam"])
    assert (alone.challenges[0].p_value, alone.challenges[0].verdict) == (0.039062, "better")
    many = compare_classifiers({"start": start, "new": luckier, "b": lucky, "c": start}, truth, ["ham", "spam"])
    assert many.challenges[0].p_value == pytest.approx(3 * 0.0390625, abs=1e-6)
    assert [challenge.verdict for challenge in many.challenges] == ["no difference shown"] * 3
    assert many.challenges[0].accuracy == alone.challenges[0].accuracy


def test_worse_is_called_worse_whatever_the_order():
    truth = np.zeros(100, dtype=np.int64)
    good, poor = with_errors(truth, np.arange(5)), with_errors(truth, np.arange(30))
    assert compare_classifiers({"a": good, "b": poor}, truth, ["x", "y"]).challenges[0].verdict == "worse"
    found = compare_classifiers({"b": poor, "a": good}, truth, ["x", "y"]).challenges[0]
    assert (found.name, found.against, found.verdict) == ("a", "b", "better")
    assert found.macro_f1 == paired_difference("macro_f1", good, poor, truth)
    assert found.log_loss == paired_difference("log_loss", good, poor, truth)


def test_of_a_hundred_equal_pairs_hardly_any_is_called_different():
    """Both err on a fifth of the rows, each on rows of its own: at most 8 in 100 may be told apart."""
    generator = np.random.default_rng(0)
    truth = np.zeros(300, dtype=np.int64)
    different = 0
    for _ in range(100):
        a, b = (with_errors(truth, np.flatnonzero(generator.random(300) < 0.2)) for _ in range(2))
        different += (
            compare_classifiers({"a": a, "b": b}, truth, ["x", "y"]).challenges[0].verdict != "no difference shown"
        )
    assert different <= 8


def test_the_rows_that_would_suffice_do_so_four_times_in_five():
    """The hint against simulation: rows drawn with the disputed shares it was told."""
    wanted = rows_needed(60, 30, 600)
    assert wanted is not None
    generator = np.random.default_rng(0)
    draws = generator.multinomial(wanted, [0.1, 0.05, 0.85], size=2000)
    power = np.mean([mcnemar(int(a), int(b)) < 0.05 for a, b, _ in draws])
    assert power == pytest.approx(0.8, abs=0.04)


def test_the_hint_is_given_only_where_rows_were_missing():
    truth = np.zeros(100, dtype=np.int64)
    start = with_errors(truth, np.arange(20))
    slightly = with_errors(truth, np.arange(18))
    clearly = with_errors(truth, np.arange(2))
    found = compare_classifiers(
        {"start": start, "slightly": slightly, "clearly": clearly, "same": start}, truth, ["x", "y"]
    )
    assert [challenge.rows_needed for challenge in found.challenges] == [rows_needed(2, 0, 100), None, None]


def test_disagreements_that_somebody_has_right_come_first():
    truth = np.array([0, 1, 2, 0])
    first, second = certain([1, 1, 0, 0], 3), certain([2, 0, 0, 0], 3)
    found = compare_classifiers({"first": first, "second": second}, truth, ["a", "b", "c"])
    assert [(d.row, d.truth, d.answers) for d in found.disagreements] == [(1, "b", ("b", "a")), (0, "a", ("b", "c"))]


def test_the_table_says_against_whom_and_how_sure():
    truth = np.zeros(100, dtype=np.int64)
    start = with_errors(truth, np.arange(20))
    table = comparison_table(
        compare_classifiers({"old": start, "new": with_errors(truth, np.arange(18))}, truth, ["x", "y"])
    )
    assert table.title == "Against old on the same 100 rows"
    assert table.rows[0][0] == "new"
    assert table.rows[0][1].startswith("+2.0 % [")
    assert table.rows[0][4:] == ("0.5", "no difference shown")
    assert "exact McNemar test." in table.note
    assert f"About {rows_needed(2, 0, 100):,} rows would show a difference as large as new's." in table.note
