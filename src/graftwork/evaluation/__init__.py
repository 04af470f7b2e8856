"""How good a classifier is: metrics with intervals, always beside what is cheaper.

Nothing heavier than NumPy is imported here; SciPy comes in where a temperature or a test is computed.
"""

from __future__ import annotations

from graftwork.evaluation.compare import paired_difference
from graftwork.evaluation.comparison import Comparison, compare_classifiers, holm, rows_needed
from graftwork.evaluation.evaluate import evaluate
from graftwork.evaluation.results import Baseline, ClassMetrics, Evaluation, Interval, PairedDifference
from graftwork.evaluation.tables import (
    Table,
    class_table,
    comparison_table,
    confusion_table,
    mistakes_table,
    quality_table,
)
from graftwork.evaluation.temperature import fit_temperature

__all__ = [
    "Baseline",
    "ClassMetrics",
    "Comparison",
    "Evaluation",
    "Interval",
    "PairedDifference",
    "Table",
    "class_table",
    "compare_classifiers",
    "comparison_table",
    "confusion_table",
    "evaluate",
    "fit_temperature",
    "holm",
    "mistakes_table",
    "paired_difference",
    "quality_table",
    "rows_needed",
]
