"""Asking a published adapter about labelled rows: what `evaluate`, `predict` and `compare` share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graftwork.data.findings import Finding
    from graftwork.registry.manifest import DatasetRecord
    from graftwork.registry.tasks import TaskColumns
    from graftwork.registry.versions import AdapterVersion
    from graftwork.serving.request import Classified
    from graftwork.wiring import Services

_WAIT_SECONDS = 3600.0
_LONGEST_PATH = 1024


def ask(opened: Services, versions: Sequence[AdapterVersion], texts: Sequence[str]) -> list[Classified]:
    """What each adapter says of the texts, `[texts, classes]` probabilities each, from one short-lived engine."""
    from graftwork.serving.engine import EngineLimits

    engine = opened.engine(EngineLimits(queue_texts=max(1, len(texts))))
    engine.start()
    try:
        return [
            engine.classify(version.tenant, version.base, version.digest, texts).result(_WAIT_SECONDS)
            for version in versions
        ]
    finally:
        engine.close(drain=False, timeout=10.0)


def inputs_of(version: AdapterVersion, given: Sequence[str]) -> list[str]:
    """What was given on the command line as a version reads it: texts, or the files that they name.

    Raises:
        ModalityMismatch: if a model of texts is given a media file.
        DataUnreadable: if a file cannot be read.
    """
    from pathlib import Path

    from graftwork.data.media import check_modality, suffix_modality
    from graftwork.data.mediarows import media_file

    modality = version.manifest.modality
    if modality != "text":
        return [media_file(Path(name), suffix_modality(Path(name)) or modality) for name in given]
    paths = [Path(text) for text in given if len(text) < _LONGEST_PATH]
    files = [(path, kind) for path in paths if (kind := suffix_modality(path)) and path.is_file()]
    check_modality([media_file(path, kind) for path, kind in files], modality, reads=version.reference)
    return list(given)


@dataclass(frozen=True)
class JudgedPart:
    """What of a version is judged: all of it, or one of its tasks.

    Attributes:
        reference: the version, with the task.
        labels: in the order of the columns.
        majority: index of the most frequent class of the training rows; the first class when it was not judged.
        dataset: the rows it was trained on.
        task: None for a version of one unnamed task.
    """

    reference: str
    labels: tuple[str, ...]
    majority: int
    dataset: DatasetRecord
    task: TaskColumns | None = None

    def probabilities(self, answer: Classified) -> Any:
        """Its part of an answer, float64 `[texts, classes]`."""
        return (answer if self.task is None else answer.part(self.task)).probabilities.astype("float64")


def judged_part(version: AdapterVersion, task: str | None) -> JudgedPart:
    """What to judge of a version.

    Raises:
        RequestInvalid: if it has several tasks and none is said, or not this one.
    """
    from graftwork.registry.tasks import columns_of, one_task_of

    manifest = version.manifest
    found = one_task_of(columns_of(manifest), task, version.reference, "Say which with --task NAME.")
    if found is None:
        return JudgedPart(version.reference, version.labels, majority_of(version), manifest.dataset)
    record = next(each for each in manifest.tasks if each.name == found.name)
    majority = found.labels.index((record.metrics or {}).get("majority_label", found.labels[0]))
    return JudgedPart(f"{version.reference}, {found.name}", found.labels, majority, record.dataset, found)


def majority_of(version: AdapterVersion) -> int:
    """Index of the most frequent class of its training rows; the first class when it was not judged."""
    label = (version.manifest.metrics or {}).get("majority_label", version.labels[0])
    return version.labels.index(label)


def class_indices(version: AdapterVersion | JudgedPart, labels: Any, rows: Any, source: str) -> Any:
    """Class index of each row `[rows]`, int64.

    Raises:
        DataRejected: if the version does not know a label, or there is no row.
    """
    import numpy as np

    from graftwork.errors import DataRejected, Problem

    order = {label: index for index, label in enumerate(version.labels)}
    unknown: dict[str, int] = {}
    for label, row in zip(labels, rows, strict=True):
        if label not in order:
            unknown.setdefault(label, row)
    if unknown or not labels:
        raise DataRejected(
            f"{version.reference} cannot be judged on these rows",
            problems=[Problem(f"{source}, row {row}", f"unknown label {label!r}") for label, row in unknown.items()]
            or [Problem(source, "no usable row")],
            remedy=f"Its labels are {', '.join(version.labels[:20])}{' …' if len(version.labels) > 20 else ''}.",
        )
    return np.array([order[label] for label in labels], dtype=np.int64)


def seen_before(version: AdapterVersion, count: int) -> Finding:
    """A warning that the version was trained on these rows."""
    from graftwork.data.findings import Finding

    return Finding(
        code="seen-in-training",
        severity="warning",
        message=f"these are the rows that {version.reference} was trained on: it does better on them than on others",
        count=count,
        remedy="Judge on rows it has not seen; graft report shows how it did on those that were held out.",
    )
