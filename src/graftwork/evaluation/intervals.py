"""Limits around an estimate: bootstrap intervals, and the score interval below which they never shrink."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_NORMAL = NormalDist()
# Indices drawn at once: bounds the memory whatever the number of rows.
_CHUNK = 1_000_000


def draw_rows(rows: int, resamples: int, seed: int) -> Iterator[Ints]:
    """Draw bootstrap resamples, a chunk at a time.

    The same arguments give the same draws: classifiers measured with one seed are measured on the same resamples.

    Yields:
        Row indices `[chunk, rows]` int64; the chunks add up to `resamples`.
    """
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // rows)
    for start in range(0, resamples, chunk):
        yield generator.integers(0, rows, size=(min(chunk, resamples - start), rows))


def bca_limits(value: float, resampled: Floats, left_out: Floats, level: float) -> tuple[float, float]:
    """Bias-corrected and accelerated bootstrap interval (Efron 1987).

    Args:
        value: the estimate on all rows.
        resampled: the estimate on each resample `[resamples]`.
        left_out: the estimate with each row left out `[rows]`.
        level: confidence level.

    Returns:
        The lower and upper limit; both are `value` when no resample differs from another.
    """
    if resampled.min() == resampled.max():
        return value, value
    edge = 0.5 / len(resampled)
    below = float(np.mean(resampled < value) + 0.5 * np.mean(resampled == value))
    bias = _NORMAL.inv_cdf(min(max(below, edge), 1 - edge))
    influence = left_out.mean() - left_out
    spread = float(np.sum(influence**2))
    acceleration = float(np.sum(influence**3)) / (6 * spread**1.5) if spread > 0 else 0.0
    tail = (1 - level) / 2
    quantiles = []
    for probability in (tail, 1 - tail):
        shifted = bias + _NORMAL.inv_cdf(probability)
        # The denominator reaches zero only beyond any quantile that the resamples resolve.
        quantiles.append(_NORMAL.cdf(bias + shifted / max(1 - acceleration * shifted, 1e-3)))
    low, high = np.quantile(resampled, quantiles)
    return float(low), float(high)


def basic_limits(value: float, resampled: Floats, level: float) -> tuple[float, float]:
    """Basic (reverse percentile) bootstrap interval: it undoes the bias that resampling adds."""
    tail = (1 - level) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return 2 * value - float(high), 2 * value - float(low)


def percentile_limits(resampled: Floats, level: float) -> tuple[Floats, Floats]:
    """Percentile bootstrap interval of each column, over the resamples in which it is defined.

    Args:
        resampled: `[resamples, columns]`, NaN where a resample leaves the column undefined.
        level: confidence level.

    Returns:
        Lower and upper limits `[columns]`; NaN for a column that no resample defines.
    """
    ordered = np.sort(resampled, axis=0)  # NaN goes last
    defined = np.sum(~np.isnan(ordered), axis=0)
    columns = np.arange(ordered.shape[1])
    limits = []
    for probability in ((1 - level) / 2, (1 + level) / 2):
        place = probability * np.maximum(defined - 1, 0)
        lower = np.floor(place).astype(np.int64)
        upper = np.ceil(place).astype(np.int64)
        share = place - lower
        limits.append(ordered[lower, columns] * (1 - share) + ordered[upper, columns] * share)
    return limits[0], limits[1]


def wilson_limits(successes: Ints, trials: Ints, level: float) -> tuple[Floats, Floats]:
    """Wilson score interval of proportions, elementwise; 0 and 1 where there were no trials.

    Example:
        >>> low, high = wilson_limits(np.array([10]), np.array([10]), 0.95)
        >>> round(float(low[0]), 3), float(high[0])
        (0.722, 1.0)
    """
    z = _NORMAL.inv_cdf((1 + level) / 2)
    counted = np.maximum(trials, 1)
    share = successes / counted
    scale = 1 + z * z / counted
    centre = (share + z * z / (2 * counted)) / scale
    half = z / scale * np.sqrt(share * (1 - share) / counted + z * z / (4.0 * counted**2))
    low = np.where((trials == 0) | (successes == 0), 0.0, centre - half)
    high = np.where((trials == 0) | (successes == trials), 1.0, centre + half)
    return low, high
