"""A search for a learning rate by itself: everything that a run does before it trains, and nothing after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from graftwork.adaptation.feature_extraction import FeatureExtraction
from graftwork.data.check import check_dataset
from graftwork.errors import DataRejected, SettingsInvalid
from graftwork.training.candidates import dearest
from graftwork.training.probe import fit_probe
from graftwork.training.rate_finder import FoundRate, find_rate
from graftwork.training.rows import prepare_rows
from graftwork.training.task import Task

if TYPE_CHECKING:
    from graftwork.backbones.backbone import TextBackbone
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
    backbone: TextBackbone, rows: Dataset, *, test: Dataset | None, config: TrainingConfig, progress: Progress
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
        SettingsInvalid: if the strategy trains nothing but a head, or the settings do not fit the base.
    """
    strategy = dearest(config)
    if strategy == FeatureExtraction.name:
        raise SettingsInvalid(
            "feature extraction trains nothing but a head, which needs no learning rate",
            remedy="Look for the rate of another strategy, such as --strategy lora.",
        )
    max_length = min(config.max_length or backbone.max_length, backbone.max_length)
    progress.stage("checking rows", None)
    report = check_dataset(rows, tokenizer=backbone.tokenizer, max_length=max_length, test=test)
    report.raise_for_errors()
    prepared = prepare_rows(rows, test, config)
    if not len(prepared.validation):
        raise DataRejected(
            f"{rows.source}: no validation row is left, so {strategy} could not be trained on these rows",
            remedy="Label more rows.",
        )
    progress.stage(f"reading {backbone.modality}s through the backbone", len(prepared.rows))
    features = backbone.embed(prepared.rows.texts, max_length=max_length, progress=progress.advance).numpy()
    progress.stage("fitting the probe", None)
    probe = fit_probe(
        features,
        prepared.labels,
        prepared.groups,
        classes=len(prepared.label_names),
        penalties=config.feature_extraction.penalties,
        folds=config.feature_extraction.folds,
        seed=config.seed,
    )
    task = Task(backbone, prepared, features, probe, config, max_length)
    with task.start(strategy) as start:
        return Looked(strategy, report, find_rate(start, progress=progress))
