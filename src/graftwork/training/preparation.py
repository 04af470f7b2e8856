"""What every run does first: processes, memory and the base's dtype; checking rows, their features, the probe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graftwork.data.check import check_dataset
from graftwork.data.findings import Finding
from graftwork.data.media import PLURALS, check_modality
from graftwork.errors import SettingsInvalid
from graftwork.training.allocator import return_freed_memory
from graftwork.training.lineage import PRIOR_PENALTIES
from graftwork.training.probe import Probe, fit_probe
from graftwork.training.processes import join
from graftwork.training.rows import PreparedRows, prepare_rows
from graftwork.training.sharding import check_sharding

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from graftwork.backbones.backbone import Backbone
    from graftwork.data.dataset import Dataset
    from graftwork.data.report import DataReport
    from graftwork.training.config import TrainingConfig
    from graftwork.training.probe import Linear
    from graftwork.training.progress import Progress


def prepare_process(backbone: Backbone, config: TrainingConfig, *, resume: bool) -> None:
    """Join the other processes of the run, and set the allocator as asked.

    Args:
        backbone: the frozen backbone.
        config: the settings.
        resume: whether an earlier run is gone on with.

    Raises:
        SettingsInvalid: if the settings do not fit the processes, or the backbone is not kept as they say.
        ProcessLost: if other processes do not come.
    """
    join(backbone.device)
    check_sharding(config.fine_tuning, resume=resume)
    _refuse_other_bits(backbone, config)
    if config.fine_tuning.tight_memory:
        return_freed_memory()


def _refuse_other_bits(backbone: Backbone, config: TrainingConfig) -> None:
    if backbone.bits != config.base_dtype:
        raise SettingsInvalid(
            f"base_dtype is {config.base_dtype}, and the backbone was loaded with {backbone.bits}",
            remedy="Load it with bits=config.base_dtype.",
        )


def few_bits(backbone: Backbone, progress: Progress) -> list[Finding]:
    """A warning, told at once, when the base is kept in fewer bits than it is served with."""
    if backbone.bits is None:
        return []
    found = Finding(
        code="base-in-few-bits",
        severity="warning",
        message=f"it was trained and judged on a base kept as {backbone.bits}; it is served by the base as it is, "
        "whose answers differ a little",
        count=1,
        remedy="Judge what is served: graft evaluate NAME --data FILE.",
    )
    progress.note(f"warning: {found.message}. {found.remedy}")
    return [found]


@dataclass(frozen=True)
class Checked:
    """Rows that can be trained on.

    Attributes:
        report: what the check found.
        prepared: the rows, cleaned and split.
        max_length: tokens kept of a text.
    """

    report: DataReport
    prepared: PreparedRows
    max_length: int


def check_rows(
    backbone: Backbone, rows: Dataset, test: Dataset | None, config: TrainingConfig, progress: Progress
) -> Checked:
    """Check labelled rows, clean and split them.

    Args:
        backbone: the frozen backbone.
        rows: to train on.
        test: to judge on; without them a share of `rows` is held out.
        config: the settings.
        progress: told of the stage.

    Raises:
        DataRejected: if the check finds errors; every one is listed.
        ModalityMismatch: if the rows are of another kind than the base model reads.
    """
    for each in (rows, test):
        check_modality(each.texts if each else (), backbone.modality, reads="this base model")
    max_length = min(config.max_length or backbone.max_length, backbone.max_length)
    progress.stage("checking rows", None)
    report = check_dataset(rows, tokenizer=backbone.tokenizer, max_length=max_length, test=test)
    report.raise_for_errors()
    return Checked(report, prepare_rows(rows, test, config), max_length)


def read_features(
    backbone: Backbone,
    prepared: PreparedRows,
    max_length: int,
    progress: Progress,
    advance: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Pooled vectors float32 `[rows, width]` of all rows but the test rows.

    Args:
        backbone: the backbone with what is in place on it.
        prepared: the rows.
        max_length: tokens kept of a text.
        progress: told of the stage.
        advance: told of rows that are read; by default `progress` is.
    """
    progress.stage(f"reading {PLURALS[backbone.modality]} through the backbone", len(prepared.rows))
    return backbone.embed(prepared.rows.texts, max_length=max_length, progress=advance or progress.advance)


def probe_rows(
    features: NDArray[np.floating], prepared: PreparedRows, config: TrainingConfig, prior: Linear | None = None
) -> Probe:
    """The linear probe of the rows' features.

    Args:
        features: pooled vectors `[rows, width]` of `prepared.rows`.
        prepared: the rows.
        config: penalties, folds and seed.
        prior: a head that it is drawn towards.
    """
    return fit_probe(
        features,
        prepared.labels,
        prepared.groups,
        classes=len(prepared.label_names),
        penalties=(*(PRIOR_PENALTIES if prior else ()), *config.feature_extraction.penalties),
        folds=config.feature_extraction.folds,
        seed=config.seed,
        prior=prior,
    )
