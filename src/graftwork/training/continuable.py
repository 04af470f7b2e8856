"""Which adapters can be gone on with, by which settings, on which rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from graftwork.adaptation.feature_extraction import FeatureExtraction
from graftwork.adaptation.full import Full
from graftwork.adaptation.partial import Partial
from graftwork.errors import DataRejected, Problem, SettingsInvalid
from graftwork.registry.chain import CHAINED
from graftwork.training.config import TrainingConfig

if TYPE_CHECKING:
    from graftwork.data.dataset import Dataset
    from graftwork.registry.artifact import Artifact

CONTINUED = (*CHAINED, Partial.name, Full.name)
"""Strategies of adapters that can be gone on with."""


def settings_to_go_on(previous: Artifact, config: TrainingConfig | None, replay: Dataset | None) -> TrainingConfig:
    """The settings to go on with an adapter by, its own by default, always of its strategy.

    Args:
        previous: the adapter.
        config: what is wanted.
        replay: old rows that are learned again.

    Raises:
        SettingsInvalid: if the adapter cannot be continued, or not by these settings.
    """
    _check_continued(previous)
    start = TrainingConfig.parse(start=previous.manifest.settings)
    config = (config or start).model_copy(update={"strategy": previous.manifest.strategy})
    _refuse_other_shape(config, start)
    _refuse_other_protection(config, replay)
    return config


def _check_continued(previous: Artifact) -> None:
    manifest = previous.manifest
    if manifest.tasks:
        raise SettingsInvalid(
            "an adapter that answers several tasks cannot be continued: the gate between two versions "
            "judges one set of labels",
            remedy="Train it anew on all rows of all tasks: graft train --task NAME=FILE --task NAME=FILE.",
        )
    if manifest.strategy not in CONTINUED or manifest.hidden:
        what = "feature extraction with a hidden layer" if manifest.hidden else manifest.strategy
        raise SettingsInvalid(
            f"an adapter made by {what} cannot be continued",
            remedy=f"Only {', '.join(CONTINUED)} with a linear head can; train it anew on all rows.",
        )


def _refuse_other_shape(config: TrainingConfig, start: TrainingConfig) -> None:
    frozen = {"store": start.partial.store}
    if config.lora != start.lora or config.partial.model_copy(update=frozen) != start.partial:
        raise SettingsInvalid(
            "an adapter that is continued keeps its ranks, its modules, its layers and its dtype",
            remedy="Leave the settings of lora and partial as they are; fine_tuning and forgetting may be set.",
        )


def _refuse_other_protection(config: TrainingConfig, replay: Dataset | None) -> None:
    protection = config.forgetting.protection
    if protection == "replay" and replay is None:
        raise SettingsInvalid(
            "forgetting.protection=replay learns old rows again, and none were given", remedy="Give them: --replay OLD."
        )
    if protection == "none" and replay is not None:
        raise SettingsInvalid(
            "old rows were given to learn again, and forgetting.protection is none",
            remedy="Leave --replay out, or forgetting.protection. --source FILE only measures what is forgotten.",
        )
    if config.forgetting.penalised and config.strategy == FeatureExtraction.name:
        raise SettingsInvalid(
            f"forgetting.protection={protection} pulls at what is trained below the head, and this adapter is a head",
            remedy="Leave it out: the penalty of a head that goes on is on the difference already.",
        )


def refuse_unknown_labels(labels: Sequence[str], *files: Dataset | None) -> None:
    """Refuse rows whose label the adapter does not know.

    Raises:
        DataRejected: with the first row of each such label.
    """
    problems = []
    for file in filter(None, files):
        unknown: dict[str, int] = {}
        for label, row in zip(file.labels, file.rows, strict=True):
            if label.strip() and label not in labels:
                unknown.setdefault(label, row)
        problems += [Problem(f"{file.source}, row {row}", f"unknown label {name!r}") for name, row in unknown.items()]
    if problems:
        raise DataRejected(
            "the adapter does not know all of these labels",
            problems=problems,
            remedy=f"It knows {', '.join(labels[:20])}; for others train a new adapter (--parent).",
        )
