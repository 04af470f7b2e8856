"""How good an adapter is on its test rows, as manifests have it; the same for one task and for each of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from graftwork.adaptation.feature_extraction import FeatureExtraction
from graftwork.evaluation.evaluate import evaluate
from graftwork.registry.manifest import DatasetRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from graftwork.data.dataset import Dataset
    from graftwork.evaluation.results import Evaluation
    from graftwork.training.candidate import Candidate
    from graftwork.training.rows import PreparedRows


def judge(
    own: NDArray[np.float64],
    prepared: PreparedRows,
    labels: Sequence[str],
    *,
    seed: int,
    beside: NDArray[np.float64] | None = None,
) -> Evaluation:
    """Metrics on the test rows, beside always answering the most frequent label of the training rows.

    Args:
        own: its probabilities `[test rows, classes]`.
        prepared: the rows.
        labels: in the order of the columns.
        seed: of the bootstrap.
        beside: the probe's probabilities, which it is compared with.
    """
    shares = np.bincount(prepared.labels, minlength=len(labels)) / len(prepared.labels)
    return evaluate(
        own,
        prepared.test_labels,
        labels,
        majority=int(shares.argmax()),
        prior=shares,
        probe_probabilities=beside,
        dataset_digest=prepared.test.digest,
        seed=seed,
    )


def record_of(rows: Dataset, prepared: PreparedRows, candidate: Candidate) -> DatasetRecord:
    """Which rows a candidate was made from; a head alone is fitted on the validation rows too."""
    fitted_on_all = candidate.strategy == FeatureExtraction.name and candidate.hidden is None
    held_back = 0 if fitted_on_all else len(prepared.validation)
    return DatasetRecord(
        digest=rows.digest,
        rows=len(rows),
        train_rows=len(prepared.rows) - held_back,
        validation_rows=held_back,
        test_rows=len(prepared.test),
        test_digest=prepared.test.digest if len(prepared.test) else None,
        test_source="held-out" if prepared.test_held_out else "given",
    )
