"""Measuring what transfer was worth for a published adapter, by references trained on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graftwork.errors import DataRejected, Problem, SettingsInvalid
from graftwork.evaluation.intervals import Floats, Ints
from graftwork.evaluation.transfer import (
    ReferenceRun,
    TransferReport,
    accuracy_of,
    compare_with_references,
    generalisation_gap,
    learning_curves,
)
from graftwork.training.config import TrainingConfig
from graftwork.training.reference_runs import KnownRows
from graftwork.training.references import Kind, References
from graftwork.training.rows import prepare_rows

if TYPE_CHECKING:
    from graftwork.data.dataset import Dataset
    from graftwork.registry.artifact import Artifact
    from graftwork.registry.manifest import Manifest

SHARES = (0.125, 0.25, 0.5)
"""Shares of the training rows at which learning curves are taken, beside all of them."""
_AGAINST: tuple[Kind, ...] = ("scratch", "scratch until it stops", "probe")
_CURVES: tuple[Kind, ...] = ("transfer", "scratch", "probe")


@dataclass(frozen=True)
class Judged:
    """The rows of an adapter, as its training split them.

    Attributes:
        rows: it was trained and validated on.
        test: it is judged on.
        seen: rows that were left out of `test` because it was trained on their texts.
    """

    rows: Dataset
    test: Dataset
    seen: int


def split_again(manifest: Manifest, rows: Dataset, test: Dataset | None) -> Judged:
    """The training and the test rows of an adapter, found again from the file it was trained on.

    Args:
        manifest: the adapter's.
        rows: all rows of that file.
        test: rows to judge on; without them those that were held out.

    Raises:
        DataRejected: if it was trained on other rows, or no test row is left.
        SettingsInvalid: if nothing was held out and no test rows are given.
    """
    if rows.digest != manifest.dataset.digest:
        raise DataRejected(
            f"{rows.source} does not hold the rows that the adapter was trained on",
            problems=[Problem(rows.source, f"digest {rows.digest[:12]}, trained on {manifest.dataset.digest[:12]}")],
            remedy="Give the same file, with the same columns: references are trained on the same rows.",
        )
    config = TrainingConfig.model_validate(manifest.settings)
    held_out = manifest.dataset.test_source == "held-out"
    if test is None and (not held_out or not manifest.dataset.test_rows):
        raise SettingsInvalid(
            "no rows were held out when the adapter was trained", remedy="Give rows to judge on: --data FILE."
        )
    prepared = prepare_rows(rows, None if held_out else test, config)
    if test is None:
        return Judged(prepared.rows, prepared.test, 0)
    trained = set(prepared.rows.texts)
    unseen = test.select([place for place, text in enumerate(test.texts) if text not in trained])
    if not len(unseen):
        raise DataRejected(
            f"{test.source}: the adapter was trained on every one of these texts",
            remedy="Judge on rows that it has not seen.",
        )
    return Judged(prepared.rows, unseen, len(test) - len(unseen))


def measure_transfer(
    artifact: Artifact,
    known: KnownRows,
    *,
    seconds: float | None,
    draws: int = 2,
    folder: Path | None = None,
) -> TransferReport:
    """Measure what transfer was worth: beside training from scratch, beside the probe, on all rows and on fewer.

    Args:
        artifact: the adapter, a child of the base itself.
        known: its rows, and the frozen backbone that it was made for.
        seconds: that its training took; None when that is not known.
        draws: of rows at each point of the learning curves; 0 takes no curves.
        folder: where references are kept.

    Raises:
        SettingsInvalid: if the adapter stands on another one.
        StorageError: if references cannot be kept.
    """
    manifest = artifact.manifest
    if manifest.parent is not None:
        raise SettingsInvalid(
            "transfer is measured for children of a base model, and this adapter stands on another one",
            remedy="Compare it with its parent: graft compare PARENT CHILD --data FILE.",
        )
    config = TrainingConfig.model_validate(manifest.settings)
    references = References(known, manifest.labels, config, manifest.strategy, folder)
    truth = _indices(known.test.labels, manifest.labels)
    own = ReferenceRun(known.answers(artifact), seconds or 0.0)
    trained = accuracy_of(known.answers(artifact, of_rows=True), _indices(known.rows.labels, manifest.labels))
    runs = {kind: references.run(kind) for kind in _AGAINST if not _same(kind, manifest)}
    found: dict[str, ReferenceRun] = {kind: run for kind, run in runs.items() if run is not None}
    accuracy = accuracy_of(own.probabilities, truth)
    return TransferReport(
        test_rows=len(truth),
        train_rows=len(known.rows),
        accuracy=accuracy,
        gap=generalisation_gap(trained, accuracy),
        against=compare_with_references(own, found, truth, seconds_known=seconds is not None),
        curves=learning_curves(_points(references, own, found, draws), truth) if draws else (),
        level=0.95,
    )


def _same(kind: Kind, manifest: Manifest) -> bool:
    """Whether the adapter itself is the reference."""
    return kind == "probe" and manifest.strategy == "feature-extraction" and manifest.hidden is None


def _points(
    references: References,
    own: ReferenceRun,
    found: dict[str, ReferenceRun],
    draws: int,
) -> dict[str, dict[int, list[Floats]]]:
    points: dict[str, dict[int, list[Floats]]] = {}
    for kind in _CURVES:
        whole = own if kind == "transfer" else found.get(kind)
        if whole is None:
            continue
        at: dict[int, list[Floats]] = {}
        for share in SHARES:
            count = round(share * len(references.known.rows))
            made = [references.run(kind, count=count, draw=draw) for draw in range(draws)] if count else []
            answers = [run.probabilities for run in made if run is not None]
            if answers:
                at[count] = answers
        at[len(references.known.rows)] = [whole.probabilities]
        points[kind] = at
    return points


def _indices(labels: Sequence[str], names: Sequence[str]) -> Ints:
    """Class index of each label.

    Raises:
        DataRejected: with the labels that the adapter does not know.
    """
    place = {name: index for index, name in enumerate(names)}
    unknown = sorted(set(labels) - set(names))
    if unknown:
        raise DataRejected(
            "the adapter cannot be judged on rows with labels it does not know",
            problems=[Problem("label", repr(label)) for label in unknown[:20]],
            remedy=f"Its labels are {', '.join(names[:20])}.",
        )
    return np.array([place[label] for label in labels], dtype=np.int64)
