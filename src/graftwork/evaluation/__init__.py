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
    curves_table,
    mistakes_table,
    quality_table,
    transfer_table,
)
from graftwork.evaluation.temperature import fit_temperature
from graftwork.evaluation.transfer import ReferenceRun, TransferReport, compare_with_references, learning_curves
from graftwork.evaluation.transferability import h_score, log_me, nearest_neighbour_accuracy

__all__ = [
    "Baseline",
    "ClassMetrics",
    "Comparison",
    "Evaluation",
    "Interval",
    "PairedDifference",
    "ReferenceRun",
    "Table",
    "TransferReport",
    "class_table",
    "compare_classifiers",
    "compare_with_references",
    "comparison_table",
    "confusion_table",
    "curves_table",
    "evaluate",
    "fit_temperature",
    "h_score",
    "holm",
    "learning_curves",
    "log_me",
    "mistakes_table",
    "nearest_neighbour_accuracy",
    "paired_difference",
    "quality_table",
    "rows_needed",
    "transfer_table",
]
