"""Negative transfer: training that does worse than what it started from, told while it happens."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from graftwork.adaptation.inference import probabilities
from graftwork.data.findings import Finding
from graftwork.evaluation.compare import paired_difference
from graftwork.evaluation.results import Metric
from graftwork.evaluation.temperature import fit_temperature
from graftwork.training.history import History

SUSTAINED = 2  # evaluations in a row
REMEDIES = "Lower fine_tuning.learning_rate, adapt fewer layers, or take another base model."


class Compared(Protocol):
    """The start's answers, to compare later ones with."""

    def above(self, logits: NDArray[np.float64]) -> bool:
        """Whether the start is better than these answers beyond chance."""
        ...


class Baseline:
    """The start's answers on the validation rows, to compare later ones with, row by row.

    Both sides are calibrated: training makes a classifier more confident, which alone is no harm.

    Args:
        logits: the start's logits `[rows, classes]`.
        labels: class indices `[rows]`.
        weighted: classes weigh differently in training, so that macro-F1 says more than the log loss of all rows.
    """

    def __init__(self, logits: NDArray[np.float64], labels: NDArray[np.int64], *, weighted: bool) -> None:
        self._labels = labels
        self._weighted = weighted
        self._start = self._calibrated(logits)

    def above(self, logits: NDArray[np.float64]) -> bool:
        """Whether the start is better than these logits `[rows, classes]` beyond chance (paired bootstrap, 95 %)."""
        if not np.isfinite(logits).all():
            return True
        metric: Metric = "macro_f1" if self._weighted else "log_loss"
        return paired_difference(metric, self._calibrated(logits), self._start, self._labels).better == "b"

    def _calibrated(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities `[rows, classes]` of the rows by these logits."""
        return probabilities(logits, fit_temperature(logits, self._labels))


def majority_accuracy(labels: NDArray[np.int64], trained: NDArray[np.int64]) -> float:
    """Share of `labels` that the most frequent of the `trained` labels gets right."""
    return float((labels == np.bincount(trained).argmax()).mean())


def negative_transfer(history: History, *, rows: int, ended: bool, start: str = "the probe") -> Finding | None:
    """The warning that training fell below its start: at several evaluations in a row, or at the one it ended with.

    Args:
        history: the evaluations so far.
        rows: number of validation rows.
        ended: no further evaluation will come.
        start: what training started from, as sentences name it.
    """
    fallen = history.fallen
    if len(fallen) < (1 if ended else SUSTAINED):
        return None
    steps = ", ".join(str(one.step) for one in fallen[-3:])
    first, best = history.judged[0], history.best
    kept = "the start itself" if best.step == 0 else f"step {best.step}, validation loss {best.loss:.3f}"
    return Finding(
        code="negative-transfer",
        severity="warning",
        message=(
            f"training did worse than {start} it started from, beyond chance, on {rows} validation rows: at step "
            f"{steps} the loss was {fallen[-1].loss:.3f} against {first.loss:.3f} and the accuracy "
            f"{fallen[-1].accuracy:.1%} against {first.accuracy:.1%}; kept is the best that was seen, {kept}"
        ),
        count=rows,
        remedy=REMEDIES,
    )


def below_probe(
    own: NDArray[np.float64], probe: NDArray[np.float64], truth: NDArray[np.int64], *, title: str
) -> Finding | None:
    """The warning that what was trained is worse than the plain probe on the test rows, beyond chance.

    Args:
        own: its probabilities `[rows, classes]`.
        probe: the probe's, fitted on all training rows.
        truth: class indices `[rows]`.
        title: of its strategy.
    """
    remedy = f"Take feature-extraction. {REMEDIES}"
    return _below(own, probe, truth, code="below-probe", title=title, other="the plain probe", remedy=remedy)


def below_parent(
    own: NDArray[np.float64], parent: NDArray[np.float64], truth: NDArray[np.int64], *, title: str
) -> Finding | None:
    """The warning that a child is worse than its parent on the test rows, beyond chance.

    Args:
        own: its probabilities `[rows, classes]`.
        parent: the parent's.
        truth: class indices `[rows]`.
        title: of its strategy.
    """
    remedy = "Ask the parent, or label more rows and train again."
    return _below(own, parent, truth, code="below-parent", title=title, other="its parent", remedy=remedy)


def _below(
    own: NDArray[np.float64],
    other_answers: NDArray[np.float64],
    truth: NDArray[np.int64],
    *,
    code: str,
    title: str,
    other: str,
    remedy: str,
) -> Finding | None:
    named: dict[Metric, str] = {"accuracy": "accuracy", "log_loss": "log loss"}
    for metric, name in named.items():
        found = paired_difference(metric, own, other_answers, truth)
        if found.better == "b":
            gap = found.difference
            return Finding(
                code=code,
                severity="warning",
                message=f"{title} is worse than {other} on {len(truth)} test rows: its {name} differs by "
                f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]",
                count=len(truth),
                remedy=remedy,
            )
    return None


def diverged(history: History, *, what: str, step: int, learning_rate: float, start: str = "the probe") -> Finding:
    """The warning that training ended early because numbers stopped being finite."""
    best = history.best
    kept = f"the start ({start})" if best.step == 0 else f"step {best.step}"
    return Finding(
        code="diverged",
        severity="warning",
        message=f"the {what} stopped being finite at step {step}, so training ended there; kept is the best state "
        f"before, {kept}, with a validation loss of {best.loss:.3f}",
        count=0,
        remedy=f"Lower fine_tuning.learning_rate (it is {learning_rate:g}).",
    )
