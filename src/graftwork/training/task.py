"""What the candidates of a run are made from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from graftwork.adaptation import STRATEGIES
from graftwork.evaluation.temperature import fit_temperature
from graftwork.training.activations import Activations
from graftwork.training.objective import class_weights
from graftwork.training.probe import fit_head
from graftwork.training.protection import Anchor
from graftwork.training.start import Rows, Start

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from graftwork.adaptation.strategy import StrategySettings
    from graftwork.backbones.backbone import Backbone
    from graftwork.registry.tasks import TaskColumns
    from graftwork.training.config import TrainingConfig
    from graftwork.training.probe import Probe
    from graftwork.training.rows import PreparedRows
    from graftwork.training.sampling import TaskSampling

Sides = tuple[Rows, Rows]  # the training rows, the validation rows


@dataclass(frozen=True)
class Task:
    """A backbone, the rows it is adapted to, and what is known of them before anything is fine-tuned.

    Attributes:
        backbone: the frozen backbone.
        prepared: the rows.
        features: pooled vectors `[rows, width]` of `prepared.rows`.
        probe: fitted on all of these.
        config: the settings.
        max_length: tokens kept of a text.
    """

    backbone: Backbone
    prepared: PreparedRows
    features: NDArray[np.floating]
    probe: Probe
    config: TrainingConfig
    max_length: int

    @contextmanager
    def start(
        self,
        strategy: str,
        *,
        settings: StrategySettings | None = None,
        folder: Path | None = None,
        kept: dict[int, Sides] | None = None,
        of: int = 1,
    ) -> Iterator[Start]:
        """Attach a strategy's delta for the block, with a head fitted on the training part alone.

        Args:
            strategy: its name.
            settings: of the strategy; by default those of `config`.
            folder: where large temporary files have room.
            kept: rows by split that are used again, and to which others are added.
            of: how many splits share the memory for cached activations.

        Raises:
            SettingsInvalid: if the settings do not fit the base model or the labels.
        """
        config, tuning = self.config, self.config.fine_tuning
        weight, bias = self.first_head()
        weights = self.class_weights()
        kept = {} if kept is None else kept
        settings = settings or config.settings_of(strategy)
        with STRATEGIES[strategy].attach(self.backbone, settings, seed=config.seed) as attachment:
            if attachment.split not in kept:
                kept[attachment.split] = self._sides(attachment.split, folder, of)
            train, validation = kept[attachment.split]
            yield Start(
                backbone=self.backbone,
                attachment=attachment,
                weight=weight,
                bias=bias,
                train=train,
                validation=validation,
                settings=tuning,
                seed=config.seed,
                class_weights=weights,
                anchor=Anchor.of(config.forgetting, None),
                tasks=self.tasks,
                first_logits=self._first_logits(weight, bias) if settings.begins_as_base else None,
            )

    @property
    def tasks(self) -> tuple[TaskColumns, ...]:
        """Which classes are whose, when there are several tasks."""
        return ()

    def first_head(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights and bias fitted on the training part alone: the probe's own have seen the validation rows."""
        prepared = self.prepared
        return fit_head(
            self.features[prepared.train],
            prepared.labels[prepared.train],
            classes=len(prepared.label_names),
            penalty=self.probe.penalty,
            prior=self.probe.prior,
        )

    def _first_logits(self, weight: NDArray[np.float64], bias: NDArray[np.float64]) -> Tensor:
        """What a head makes of the bare base's vectors of the validation rows: `[validation rows, classes]`."""
        logits = self.features[self.prepared.validation] @ weight.T + bias
        return torch.from_numpy(logits).to(self.backbone.device, torch.float32)

    def class_weights(self) -> NDArray[np.float32] | None:
        """Weight of each class in the loss as the settings want it."""
        prepared = self.prepared
        wanted = self.config.fine_tuning.class_weights
        return class_weights(wanted, prepared.labels[prepared.train], prepared.label_names)

    def sampling(self) -> TaskSampling | None:
        """How an epoch draws from the training rows, when they are of several tasks."""
        return None

    def temperature(self, logits: NDArray[np.float64]) -> float:
        """What calibrates logits `[validation rows, classes]`."""
        return fit_temperature(logits, self.prepared.labels[self.prepared.validation])

    def _sides(self, split: int, folder: Path | None, of: int) -> Sides:
        prepared = self.prepared
        ids = self.backbone.encode(prepared.rows.texts, self.max_length)
        memory = self.config.fine_tuning.cache_gb * 1e9 / of

        def rows(places: NDArray[np.int64], sampling: TaskSampling | None = None) -> Rows:
            chosen = [ids[place] for place in places]
            activations = Activations(self.backbone, chosen, split=split, memory=memory, folder=folder)
            return Rows.of(activations, prepared.labels[places], self.backbone.device, sampling)

        return rows(prepared.train, self.sampling()), rows(prepared.validation)
