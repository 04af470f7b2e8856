"""One number that makes probabilities honest."""

from __future__ import annotations

import numpy as np

from graftwork.evaluation.intervals import Floats, Ints

# With fewer rows a fitted temperature is worse than none as often as it is better: docs/decisions/0031.
FEWEST_ROWS = 20
LOWEST, HIGHEST = 0.05, 20.0


def fit_temperature(logits: Floats, truth: Ints) -> float:
    """Fit the temperature by which logits are divided before the softmax.

    Minimises the negative log likelihood of validation rows that were not trained on. The truth counts as
    `(rows + 1) / (rows + 2)` instead of 1, and the other classes share the rest (Platt's targets), so rows that are
    all right do not call for infinite confidence.

    Args:
        logits: `[rows, classes]`.
        truth: class indices `[rows]`.

    Returns:
        A temperature between 0.05 and 20, rounded to six decimals; exactly 1.0 with fewer than 20 rows or when the
        logits say nothing.

    Raises:
        ValueError: shapes that do not fit, or logits that are not finite.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> logits = rng.normal(0, 2, (4000, 3))
        >>> truth = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
        >>> round(fit_temperature(3 * logits, truth), 1)
        3.0
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    logits = np.asarray(logits, dtype=np.float64)
    truth = np.asarray(truth, dtype=np.int64)
    if logits.ndim != 2 or truth.shape != logits.shape[:1]:
        raise ValueError(f"logits of shape {logits.shape} and truth of shape {truth.shape} do not fit")
    if not np.all(np.isfinite(logits)):
        raise ValueError("logits that are not finite have no temperature")
    rows, classes = logits.shape
    if rows < FEWEST_ROWS or classes < 2 or np.all(logits == logits[:, :1]):
        return 1.0
    # Shifting a row changes no probability; it keeps huge logits from cancelling each other.
    logits = logits - logits.max(axis=1, keepdims=True)
    share = 1 / (rows + 2)
    chosen = logits[np.arange(rows), truth]
    target = (1 - share) * chosen + share * (logits.sum(axis=1) - chosen) / (classes - 1)

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float(np.mean(logsumexp(logits * scale, axis=1) - target * scale))

    bounds = (float(np.log(LOWEST)), float(np.log(HIGHEST)))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-7})
    return round(float(np.clip(np.exp(found.x), LOWEST, HIGHEST)), 6)
