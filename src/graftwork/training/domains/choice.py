"""Which of several candidates to trust on the target, without its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from graftwork.training.domains.scores import (
    Scores,
    effective_rows,
    information,
    neighbourhood_density,
    weighted_accuracy,
    weighted_loss,
)

if TYPE_CHECKING:
    from graftwork.training.domains.settings import Method

Array = NDArray[np.float64]

_RESAMPLES = 1000


class Considered(BaseModel):
    """A method that was tried.

    Attributes:
        method: its name.
        scores: what is said of it without labels of the target.
        refused: why it was not to be taken, if it was not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    scores: Scores
    refused: str = ""


@dataclass(frozen=True)
class Choice:
    """The method that was taken.

    Attributes:
        method: its name.
        told: why, one sentence.
        all: every method that was tried.
    """

    method: Method
    told: str
    all: tuple[Considered, ...]


def chosen_by_scores(
    answers: Mapping[Method, Array], held_out: Mapping[Method, Array], labels: NDArray[np.int64], weights: Array
) -> Choice:
    """Take the candidate nearest to the mean of all that can be trusted.

    Who is worse than no adaptation on labelled rows, weighted as the target has them, beyond a paired bootstrap
    interval, is not taken. Of the others that one is taken whose answers on the target agree most with the mean of
    their probabilities: errors that candidates do not share cancel out in the mean (Hu et al., NeurIPS 2024). Of equals
    the first is taken, and no adaptation comes first. Deterministic.

    Args:
        answers: of each candidate, calibrated probabilities on the target `[target rows, classes]`.
        held_out: the same on the labelled validation rows `[rows, classes]`.
        labels: their class indices `[rows]`.
        weights: their importance for the target `[rows]`.
    """
    refused = {method: _worse_than_none(method, held_out, labels, weights) for method in answers}
    trusted = [method for method in answers if not refused[method]]
    agreement = _agreement(answers, trusted)
    considered = tuple(
        Considered(
            method=method,
            scores=Scores(
                weighted_loss=round(weighted_loss(held_out[method], labels, weights), 6),
                weighted_accuracy=round(weighted_accuracy(held_out[method], labels, weights), 6),
                source_accuracy=round(float((held_out[method].argmax(axis=1) == labels).mean()), 6),
                neighbourhood_density=round(neighbourhood_density(answers[method]), 6),
                information=round(information(answers[method]), 6),
                agreement=round(agreement[method], 6),
            ),
            refused=refused[method],
        )
        for method in answers
    )
    taken = nearest_to_all({method: answers[method] for method in trusted})
    told = f"chosen without labels of the target among {len(trusted)} of {len(answers)} candidates: "
    told += ", ".join(f"{method} agrees on {agreement[method]:.1%}" for method in trusted)
    told += f" of the target rows with the mean of all; {len(labels)} validation rows count as "
    told += f"{effective_rows(weights):.0f} when they are weighted as the target has them"
    return Choice(taken, told, considered)


def nearest_to_all(answers: Mapping[Method, Array]) -> Method:
    """The candidate whose answers `[target rows, classes]` agree most with the mean of all; of equals the first."""
    agreement = _agreement(answers, list(answers))
    return max(answers, key=lambda method: agreement[method])


def _agreement(answers: Mapping[Method, Array], trusted: Sequence[Method]) -> dict[Method, float]:
    together = np.mean([answers[method] for method in trusted], axis=0).argmax(axis=1)
    return {method: float((answers[method].argmax(axis=1) == together).mean()) for method in answers}


def _worse_than_none(
    method: Method, held_out: Mapping[Method, Array], labels: NDArray[np.int64], weights: Array
) -> str:
    """Why a method is not to be trusted; nothing when it is."""
    if method == "none" or "none" not in held_out:
        return ""
    rows = np.arange(len(labels))
    losses = [-np.log(held_out[name][rows, labels] + 1e-12) for name in (method, "none")]
    more = losses[0] - losses[1]
    draws = np.random.default_rng(0).integers(len(labels), size=(_RESAMPLES, len(labels)))
    drawn = (weights[draws] * more[draws]).sum(axis=1) / weights[draws].sum(axis=1)
    low = float(np.quantile(drawn, 0.025))
    return f"its weighted loss is higher than without adaptation by {low:.3f} at least" if low > 0 else ""
