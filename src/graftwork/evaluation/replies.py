"""How well a language model expects the responses that were wanted, against another on the same rows."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from graftwork.evaluation.intervals import draw_rows
from graftwork.evaluation.results import Frozen, Interval
from graftwork.evaluation.tables import Table

_LEVEL = 0.95
_RESAMPLES = 2000


class RepliesEvaluation(Frozen):
    """Token losses on rows that were not trained on.

    Attributes:
        rows: conversations judged on.
        tokens: response tokens in them.
        loss: mean negative log-likelihood of a response token, in nats.
        perplexity: its exponential.
        token_accuracy: share of response tokens that were the most probable.
        base_loss: the unadapted base's loss on the same rows.
        base_perplexity: its exponential.
        base_token_accuracy: the base's share.
        difference: `loss` less `base_loss`; below zero the adapter is better.
        level: of the intervals (bootstrap by row, the same draws for both).
        resamples: draws.
        dataset_digest: of the rows.
    """

    rows: int = Field(ge=1)
    tokens: int = Field(ge=1)
    loss: Interval
    perplexity: Interval
    token_accuracy: float
    base_loss: Interval
    base_perplexity: Interval
    base_token_accuracy: float
    difference: Interval
    level: float = _LEVEL
    resamples: int = _RESAMPLES
    dataset_digest: str = ""

    @property
    def verdict(self) -> str:
        """The comparison with the base in words."""
        by = f"{abs(self.difference.value):.3f} nats a token [{self.difference.low:+.3f}, {self.difference.high:+.3f}]"
        if self.difference.high < 0:
            return f"it expects these responses better than the unadapted base, by {by}"
        if self.difference.low > 0:
            return f"it expects these responses worse than the unadapted base, by {by}"
        return f"whether it is better than the unadapted base cannot be told from {self.rows} rows ({by})"


def evaluate_replies(
    own: NDArray[np.float64],
    base: NDArray[np.float64],
    tokens: NDArray[np.int64],
    *,
    dataset_digest: str = "",
    seed: int = 0,
) -> RepliesEvaluation:
    """Compare an adapter with its base.

    Args:
        own: sum of token losses and number of right tokens of each row `[rows, 2]`.
        base: the same of the unadapted base.
        tokens: response tokens of each row `[rows]`.
        dataset_digest: of the rows.
        seed: of the draws.
    """
    total = float(tokens.sum())
    losses = {name: _token_loss(measured[:, 0], tokens, seed) for name, measured in (("own", own), ("base", base))}
    return RepliesEvaluation(
        rows=len(tokens),
        tokens=int(total),
        loss=losses["own"],
        perplexity=_exponential(losses["own"]),
        token_accuracy=round(float(own[:, 1].sum()) / total, 6),
        base_loss=losses["base"],
        base_perplexity=_exponential(losses["base"]),
        base_token_accuracy=round(float(base[:, 1].sum()) / total, 6),
        difference=paired_token_loss(own[:, 0], base[:, 0], tokens, seed=seed),
        dataset_digest=dataset_digest,
    )


def paired_token_loss(
    first: NDArray[np.float64], second: NDArray[np.float64], tokens: NDArray[np.int64], *, seed: int = 0
) -> Interval:
    """Mean loss a token of the first less the second's, with a paired percentile bootstrap by row.

    Args:
        first: sum of token losses of each row `[rows]`.
        second: the other's.
        tokens: of each row `[rows]`.
        seed: of the draws.
    """
    return _token_loss(first - second, tokens, seed)


def replies_table(evaluation: RepliesEvaluation, *, name: str) -> Table:
    """The adapter beside the unadapted base."""
    rows = (
        (name, _nats(evaluation.loss), _plain(evaluation.perplexity), f"{evaluation.token_accuracy:.1%}"),
        (
            "the unadapted base",
            _nats(evaluation.base_loss),
            _plain(evaluation.base_perplexity),
            f"{evaluation.base_token_accuracy:.1%}",
        ),
    )
    return Table(
        title=f"Quality on {evaluation.rows:,} test rows with {evaluation.tokens:,} response tokens",
        columns=("", "nats a token", "perplexity", "tokens right"),
        rows=rows,
        note=f"In words: {evaluation.verdict}. In brackets: {evaluation.level:.0%} bootstrap intervals by row.",
    )


def _token_loss(sums: NDArray[np.float64], tokens: NDArray[np.int64], seed: int) -> Interval:
    drawn = np.concatenate(
        [sums[places].sum(axis=1) / tokens[places].sum(axis=1) for places in draw_rows(len(sums), _RESAMPLES, seed)]
    )
    low, high = np.quantile(drawn, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Interval.of(float(sums.sum() / tokens.sum()), float(low), float(high))


def _exponential(loss: Interval) -> Interval:
    # A model of random weights may be off by hundreds of nats.
    return Interval.of(*(math.exp(min(value, 700.0)) for value in (loss.value, loss.low, loss.high)))


def _nats(loss: Interval) -> str:
    return f"{loss.value:.3f} [{loss.low:.3f}, {loss.high:.3f}]"


def _plain(value: Interval) -> str:
    return f"{value.value:.4g} [{value.low:.4g}, {value.high:.4g}]"
