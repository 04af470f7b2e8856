"""Negative interference: a task that does worse in company than it does alone (arXiv 2010.03017)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graftwork.data.findings import Finding
from graftwork.evaluation.compare import paired_difference
from graftwork.evaluation.results import Frozen, PairedDifference

Probabilities = NDArray[np.float64]


class AgainstAlone(Frozen):
    """A task in company against the same task alone, on the same test rows.

    Attributes:
        digest: of the adapter that was trained for it alone, with the same settings, seed and rows.
        accuracy: in company minus alone.
        log_loss: in company minus alone; less is better.
        verdict: in words.
    """

    digest: str
    accuracy: PairedDifference
    log_loss: PairedDifference
    verdict: str


def against_alone(
    task: str, together: Probabilities, alone: Probabilities, truth: NDArray[np.int64], *, digest: str, seed: int
) -> AgainstAlone:
    """Compare row by row.

    Args:
        task: its name.
        together: its probabilities `[rows, classes]` by the adapter of all tasks.
        alone: by the adapter that was trained for it alone.
        truth: class indices `[rows]`.
        digest: of that adapter.
        seed: of the bootstrap.
    """
    accuracy = paired_difference("accuracy", together, alone, truth, seed=seed)
    loss = paired_difference("log_loss", together, alone, truth, seed=seed)
    return AgainstAlone(digest=digest, accuracy=accuracy, log_loss=loss, verdict=_verdict(task, accuracy, loss))


def _verdict(task: str, accuracy: PairedDifference, loss: PairedDifference) -> str:
    measured = f"accuracy {_percent(accuracy)}, log loss {_nats(loss)} on {accuracy.rows} test rows"
    if "b" in (accuracy.better, loss.better):
        return f"{task} suffers from the other tasks: in company against alone, {measured}"
    if "a" in (accuracy.better, loss.better):
        return f"{task} gains from the other tasks: in company against alone, {measured}"
    return f"{task} does as well in company as alone, as far as these rows can tell: {measured}"


def interference_warning(name: str, found: AgainstAlone) -> Finding | None:
    """The warning that a task is worse in company, beyond chance."""
    if "b" not in (found.accuracy.better, found.log_loss.better):
        return None
    return Finding(
        code="negative-interference",
        severity="warning",
        message=found.verdict,
        count=found.accuracy.rows,
        examples=(name,),
        remedy=f"Train {name} by itself, raise tasks.temperature if it has few rows, or adapt more of the network.",
    )


def _percent(found: PairedDifference) -> str:
    gain = found.difference
    return f"{gain.value:+.1%} [{gain.low:+.1%}, {gain.high:+.1%}]"


def _nats(found: PairedDifference) -> str:
    gap = found.difference
    return f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"
