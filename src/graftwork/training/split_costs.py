"""What a trial of a split costs: operations in matrix products, counted and not timed.

Counts are the same on every machine, so a choice that they bound is the same too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from graftwork.adaptation import STRATEGIES
from graftwork.adaptation.partial import Partial
from graftwork.backbones.unloaded import unloaded_backbone
from graftwork.training.plan import Work
from graftwork.training.randomness import own_randomness

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graftwork.training.task import Task


@dataclass(frozen=True)
class TrialCost:
    """Operations of trials of a split, by part.

    Attributes:
        trunk: the trunk for all rows, once for all trials of a split.
        evaluation: the tail for the validation rows.
        step: an optimizer step.
    """

    trunk: int
    evaluation: int
    step: int


def trial_costs(task: Task, splits: Sequence[int]) -> dict[int, TrialCost]:
    """Count what trials of partial fine-tuning cost, each split on a copy of the network that has no values.

    Args:
        task: base, rows and settings.
        splits: numbers of frozen layers.
    """
    backbone, prepared, config = task.backbone, task.prepared, task.config
    lengths = np.array([len(ids) for ids in backbone.encode(prepared.rows.texts, task.max_length)])
    tokens, validated = int(lengths.sum()), int(lengths[prepared.validation].sum())
    costs = {}
    with (
        own_randomness(config.seed, backbone.device),
        unloaded_backbone(backbone.model.config, dtype=backbone.dtype) as shape,
    ):
        for split in splits:
            settings = config.partial.model_copy(update={"freeze_layers": split})
            with STRATEGIES[Partial.name].attach(shape, settings, seed=config.seed) as attachment:
                rows = min(config.fine_tuning.batch_size, len(prepared.train))
                work = Work(shape, attachment, rows=rows, tokens=math.ceil(lengths.mean()))
            trunk, evaluation = tokens * (work.whole - work.tail), validated * work.tail
            costs[split] = TrialCost(trunk // work.tokens, evaluation // work.tokens, work.step)
    return costs
