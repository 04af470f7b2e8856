"""Tables: the strings that people read."""

from __future__ import annotations

import numpy as np

from graftwork.evaluation import class_table, confusion_table, evaluate, mistakes_table, quality_table
from tests.evaluation.samples import DIGEST, certain, sample

LABELS = ["ham", "spam", "news"]


def small():
    return evaluate(
        certain([0, 0, 1, 1, 0, 1], 3, 0.9), np.array([0, 0, 1, 1, 1, 0]), LABELS,
        majority=0, prior=np.array([0.5, 0.3, 0.2]), dataset_digest=DIGEST,
    )  # fmt: skip


def test_quality_names_each_row_and_shows_limits():
    report = small()
    table = quality_table(report, name="acme/mail")
    assert table.title == "Quality on 6 test rows"
    assert table.columns == ("", "accuracy", "macro-F1", "log loss", "calibration error")
    assert [row[0] for row in table.rows] == ["acme/mail", "always 'ham'"]
    low, high = 100 * report.accuracy.low, 100 * report.accuracy.high
    assert table.rows[0][1] == f"66.7 % [{low:.1f}, {high:.1f}]"
    assert table.rows[1][1].startswith("50.0 % [")
    assert table.rows[1][3].startswith("0.949 [")
    assert table.rows[1][4] == "–"
    assert table.note == "In brackets: 95% bootstrap intervals, 1,000 resamples."


def test_quality_shows_the_probe_between():
    probabilities, truth = sample(30, 3)
    report = evaluate(
        probabilities, truth, LABELS, majority=0, probe_probabilities=probabilities, dataset_digest=DIGEST
    )
    rows = quality_table(report).rows
    assert [row[0] for row in rows] == ["this classifier", "probe on the frozen model", "always 'ham'"]
    assert rows[0][1:4] == rows[1][1:4]
    assert rows[2][3] == "–"


def test_classes_show_a_dash_where_nothing_is_known():
    table = class_table(small())
    assert [row[:2] for row in table.rows] == [("ham", "3"), ("spam", "3"), ("news", "0")]
    assert table.rows[0][2].startswith("66.7 % [")
    assert table.rows[2][2:] == ("–", "–", "–")


def test_confusion_has_truth_in_rows():
    table = confusion_table(small())
    assert table.columns == ("true class", "ham", "spam", "news")
    assert table.rows == (("ham", "2", "1", "·"), ("spam", "1", "2", "·"), ("news", "·", "·", "·"))


def test_mistakes_are_sorted_and_cut():
    truth = np.array([0, 0, 0, 0, 1, 2])
    report = evaluate(certain([1, 1, 2, 0, 0, 2], 3), truth, LABELS, majority=0, dataset_digest=DIGEST)
    assert mistakes_table(report).rows == (
        ("ham", "spam", "2", "50.0 %"), ("ham", "news", "1", "25.0 %"), ("spam", "ham", "1", "100.0 %"),
    )  # fmt: skip
    assert mistakes_table(report, most=1).rows == (("ham", "spam", "2", "50.0 %"),)


def test_labels_are_passed_on_as_they_are():
    report = evaluate(certain([0, 1], 2), np.array([0, 1]), ["[red]", "=1+1"], majority=1, dataset_digest=DIGEST)
    assert [row[0] for row in class_table(report).rows] == ["[red]", "=1+1"]
    assert quality_table(report).rows[-1][0] == "always '=1+1'"
