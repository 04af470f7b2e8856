"""The gate: a version is published only if it is not worse than the one before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import NotBetter, Problem
from graftwork.evaluation.compare import paired_difference


def pass_gate(own: NDArray[np.float64], before: NDArray[np.float64], truth: NDArray[np.int64], *, new: int) -> str:
    """The sentence that says what the gate saw.

    Args:
        own: the new version's probabilities `[rows, classes]`.
        before: those of the version before.
        truth: class indices `[rows]`.
        new: how many of the rows are new ones; they come first.

    Raises:
        NotBetter: if the log loss on the new rows is not lower, or anything is worse beyond chance.
    """
    sides = {"new": slice(0, new), "old": slice(new, None)}
    sentences, problems = [], []
    for name, rows in sides.items():
        if not len(truth[rows]):
            sentences.append(f"no {name} rows were given to check on")
            continue
        loss = paired_difference("log_loss", own[rows], before[rows], truth[rows])
        accuracy = paired_difference("accuracy", own[rows], before[rows], truth[rows])
        told = (
            f"on {loss.rows} {name} rows that were kept back its log loss differs by {loss.difference.value:+.3f} "
            f"[{loss.difference.low:+.3f}, {loss.difference.high:+.3f}] and its accuracy by "
            f"{accuracy.difference.value:+.1%} from the version before"
        )
        sentences.append(told)
        lost = "b" in (loss.better, accuracy.better)
        if lost or (name == "new" and loss.difference.value >= 0):
            problems.append(Problem(f"{name} rows", told))
    if problems:
        raise NotBetter(
            "nothing was published: the version before answers better",
            problems=problems,
            remedy="Give the old rows too (--replay), more new rows, or a lower fine_tuning.learning_rate.",
        )
    return "; ".join(sentences)
