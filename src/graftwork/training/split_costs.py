"""What a trial of a split costs: operations in matrix products, counted and not timed.

Counts are the same on every machine, so a choice that they bound is the same too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from graftwork.adaptation.partial import Partial
from graftwork.backbones.unloaded import UnloadedModel, without_values
from graftwork.training.plan_counts import Shape, count
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
    backbone.texts_only("partial.freeze_layers=auto")
    lengths = np.array([len(ids) for ids in backbone.encode(prepared.rows.texts, task.max_length)])
    tokens, validated = int(lengths.sum()), int(lengths[prepared.validation].sum())
    rows, common = min(config.fine_tuning.batch_size, len(prepared.train)), math.ceil(lengths.mean())
    shape = Shape(rows=rows, common=common, longest=common, classes=len(prepared.label_names))
    costs = {}
    with own_randomness(config.seed, backbone.device), without_values():
        model = UnloadedModel(backbone.model.config, dtype=backbone.dtype, bits=None)
        for split in splits:
            settings = config.partial.model_copy(update={"freeze_layers": split})
            found, _ = count(model, Partial.name, settings, shape)
            trunk, evaluation = tokens * (found.whole - found.tail), validated * found.tail
            costs[split] = TrialCost(trunk // (rows * common), evaluation // (rows * common), found.step)
    return costs
