"""How much of what was learned before is lost: a model after training against the one before, on rows of the source."""

from __future__ import annotations

from graftwork.evaluation.compare import paired_difference
from graftwork.evaluation.intervals import Floats, Ints
from graftwork.evaluation.results import Forgetting


def forgetting(
    after: Floats, before: Floats, truth: Ints, *, source: str, dataset_digest: str, against: str, seed: int = 0
) -> Forgetting:
    """Compare a model with the one it was made from, row by row.

    Args:
        after: probabilities `[rows, classes]` of the model that was trained.
        before: probabilities of the one it was made from.
        truth: class indices `[rows]`.
        source: what the rows are called.
        dataset_digest: digest of the rows.
        against: digest of the model before.
        seed: seed of the resamples.
    """
    return Forgetting(
        source=source,
        rows=len(truth),
        before=round(float((before.argmax(axis=1) == truth).mean()), 6),
        after=round(float((after.argmax(axis=1) == truth).mean()), 6),
        accuracy=paired_difference("accuracy", after, before, truth, seed=seed),
        log_loss=paired_difference("log_loss", after, before, truth, seed=seed),
        dataset_digest=dataset_digest,
        against=against,
    )
