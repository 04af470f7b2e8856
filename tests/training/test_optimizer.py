from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from graftwork.adaptation.lora import Lora, LoraSettings
from graftwork.adaptation.strategy import Attachment
from graftwork.backbones.backbone import Backbone
from graftwork.training.config import FineTuningSettings
from graftwork.training.optimizer import parameter_groups, rate_table

Backbones = Callable[..., Backbone]


class Listed:
    """Parameters of four depths: below the layers, layers 0 and 1, and one that two layers share."""

    def __init__(self) -> None:
        self.shared = nn.Parameter(torch.zeros(3, 3))
        self.matrices = [nn.Parameter(torch.zeros(2, 5)) for _ in range(3)]
        self.bias = nn.Parameter(torch.zeros(5))

    def parameters(self) -> list[nn.Parameter]:
        return [*self.matrices, self.bias, self.shared, self.shared]

    def depths(self) -> list[int]:
        return [-1, 0, 1, 1, 1, 0]


def test_rates_fall_from_the_head_down_and_vectors_do_not_decay() -> None:
    listed, head = Listed(), nn.Linear(5, 2)
    attachment = cast("Attachment", listed)
    how: dict[str, Any] = {
        "layers": 2,
        "settings": FineTuningSettings(layer_decay=0.5, weight_decay=0.1),
        "learning_rate": 0.5,
    }
    groups = parameter_groups(attachment, list(head.parameters()), **how)
    found = {id(parameter): (group["peak"], group["weight_decay"]) for group in groups for parameter in group["params"]}
    below, first, second = listed.matrices
    assert found == {
        id(below): (0.0625, 0.1),
        id(first): (0.125, 0.1),
        id(second): (0.25, 0.1),
        id(listed.bias): (0.25, 0.0),
        id(listed.shared): (0.25, 0.1),
        id(head.weight): (0.5, 0.1),
        id(head.bias): (0.5, 0.0),
    }
    assert sum(len(group["params"]) for group in groups) == 7
    assert len(groups) == 6
    table = rate_table(attachment, list(head.parameters()), **how)
    assert [(row.layer, row.parameters, row.rate) for row in table] == [
        ("head", 12, 0.5),
        ("layer 1", 24, 0.25),
        ("layer 0", 10, 0.125),
        ("embeddings", 10, 0.0625),
    ]


def test_without_decays_there_is_one_group_for_matrices_and_vectors_each(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    head = nn.Linear(backbone.width, 2)
    with Lora().attach(backbone, LoraSettings(), seed=0) as attachment:
        groups = parameter_groups(
            attachment, list(head.parameters()), layers=3, settings=FineTuningSettings(), learning_rate=1e-3
        )
        assert len(groups) == 1
        assert len(groups[0]["params"]) == len(attachment.parameters()) + 2
        decayed = parameter_groups(
            attachment,
            list(head.parameters()),
            layers=3,
            settings=FineTuningSettings(weight_decay=0.1),
            learning_rate=1e-3,
        )
    assert [group["weight_decay"] for group in decayed] == [0.1, 0.0]
    assert [parameter.shape for parameter in decayed[1]["params"]] == [(2,)]
