"""Labels that look wrong, by confident learning.

Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", Journal of Artificial
Intelligence Research 70 (2021), arXiv 1911.00068.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graftwork.evaluation.evaluate import checked_probabilities, checked_truth
from graftwork.evaluation.intervals import Floats, Ints
from graftwork.evaluation.results import Frozen


class LabelDoubt(Frozen):
    """A row whose label looks wrong.

    Attributes:
        row: its position.
        given: the label it has.
        suggested: the label it probably should have.
        given_probability: of the label it has.
        suggested_probability: of the other.
    """

    row: int
    given: str
    suggested: str
    given_probability: float
    suggested_probability: float


def confident_thresholds(probabilities: Floats, labels: Ints) -> Floats:
    """Mean probability of each class over the rows that carry it `[classes]`; infinite for a class without rows.

    A row counts as confidently of a class from this probability on (equation 2 of the paper).
    """
    classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=classes)
    own = np.bincount(labels, weights=probabilities[np.arange(len(labels)), labels], minlength=classes)
    return np.where(counts > 0, own / np.maximum(counts, 1), np.inf)


def doubtful_labels(probabilities: Floats, labels: Ints, names: Sequence[str]) -> tuple[LabelDoubt, ...]:
    """Rows off the diagonal of the confident joint (equation 1 of the paper), the least probable label first.

    A row is counted under the most probable of the classes whose threshold it reaches; where that is not the class of
    its label, the label is doubted.

    Args:
        probabilities: `[rows, classes]`, of each row by a model that was not trained on it.
        labels: class index of the label each row has `[rows]`.
        names: of the classes.

    Raises:
        ValueError: shapes that do not fit, no rows, or numbers that are no probabilities.

    Example:
        >>> told = np.array([[0.9, 0.1], [0.8, 0.2], [0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
        >>> [(one.row, one.suggested) for one in doubtful_labels(told, np.array([0, 0, 1, 1, 1]), ["ham", "spam"])]
        [(2, 'ham')]
    """
    probabilities = checked_probabilities(probabilities, len(labels), len(names))
    labels = checked_truth(labels, len(names))
    confident = np.where(probabilities >= confident_thresholds(probabilities, labels), probabilities, -1.0)
    suggested = confident.argmax(axis=1)
    rows = np.arange(len(labels))
    doubted = np.flatnonzero((suggested != labels) & (confident[rows, suggested] >= 0))
    order = doubted[np.argsort(probabilities[doubted, labels[doubted]], kind="stable")]
    return tuple(
        LabelDoubt(
            row=int(row),
            given=names[labels[row]],
            suggested=names[suggested[row]],
            given_probability=round(float(probabilities[row, labels[row]]), 6),
            suggested_probability=round(float(probabilities[row, suggested[row]]), 6),
        )
        for row in order
    )
