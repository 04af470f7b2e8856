"""A search for a learning rate by itself: everything that a run does before it trains, and nothing after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from graftwork.adaptation.feature_extraction import FeatureExtraction
from graftwork.errors import DataRejected, SettingsInvalid
from graftwork.training.candidates import dearest
from graftwork.training.preparation import check_rows, probe_rows, read_features
from graftwork.training.rate_finder import FoundRate, find_rate
from graftwork.training.task import Task

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone
    from graftwork.data.dataset import Dataset
    from graftwork.data.report import DataReport
    from graftwork.training.config import TrainingConfig
    from graftwork.training.progress import Progress


@dataclass(frozen=True)
class Looked:
    """What a search for a rate gave.

    Attributes:
        strategy: what the rate is for.
        report: what the check of the rows found.
        found: the rate, and those that were tried.
    """

    strategy: str
    report: DataReport
    found: FoundRate


def look_for_rate(
    backbone: Backbone, rows: Dataset, *, test: Dataset | None, config: TrainingConfig, progress: Progress
) -> Looked:
    """Find the learning rate that a run with `fine_tuning.learning_rate=auto` would find, and leave no trace.

    Args:
        backbone: the frozen backbone; it is the same afterwards.
        rows: labelled rows to train on.
        test: labelled rows to judge on, which are not looked at; without them a share of `rows` is held out.
        config: the settings; with `auto` the rate is that of the strategy which is compared with the probe.
        progress: told of stages and steps.

    Raises:
        DataRejected: if the check finds errors, or no row is left to train on.
        ModalityMismatch: if the rows are of another kind than the base model reads.
        SettingsInvalid: if the strategy trains nothing but a head, or the settings do not fit the base.
    """
    strategy = dearest(config)
    if strategy == FeatureExtraction.name:
        raise SettingsInvalid(
            "feature extraction trains nothing but a head, which needs no learning rate",
            remedy="Look for the rate of another strategy, such as --strategy lora.",
        )
    checked = check_rows(backbone, rows, test, config, progress)
    prepared = checked.prepared
    if not len(prepared.validation):
        raise DataRejected(
            f"{rows.source}: no validation row is left, so {strategy} could not be trained on these rows",
            remedy="Label more rows.",
        )
    features = read_features(backbone, prepared, checked.max_length, progress).numpy()
    progress.stage("fitting the probe", None)
    task = Task(backbone, prepared, features, probe_rows(features, prepared, config), config, checked.max_length)
    with task.start(strategy) as start:
        return Looked(strategy, checked.report, find_rate(start, progress=progress))
