from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from graftwork.adaptation.lora import Lora, LoraSettings
from graftwork.backbones.backbone import Backbone
from graftwork.errors import SettingsInvalid
from graftwork.training.activations import Activations
from graftwork.training.config import FineTuningSettings
from graftwork.training.objective import Objective
from graftwork.training.progress import Silent
from graftwork.training.rate_finder import FoundRate, find_rate
from graftwork.training.start import Rows, Start
from tests.training.test_loop import LABELS, TEXTS

Backbones = Callable[..., Backbone]


def find(backbone: Backbone, attachment: Any, **settings: Any) -> FoundRate:
    kept = Activations(backbone, backbone.encode(TEXTS), split=attachment.split)
    rows = Rows.of(kept, LABELS, backbone.device)
    start = Start(
        backbone=backbone,
        attachment=attachment,
        weight=np.zeros((2, backbone.width)),
        bias=np.zeros(2),
        train=rows,
        validation=rows,
        settings=FineTuningSettings(batch_size=16, **settings),
        seed=0,
    )
    return find_rate(start, progress=Silent())


def test_it_finds_a_rate_and_leaves_no_trace(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    with Lora().attach(backbone, LoraSettings(rank=4, layers=1, dropout=0.3), seed=0) as attachment:
        delta = attachment.delta().files
        torch.manual_seed(5)
        random.seed(5)
        accelerate = dict(AcceleratorState._shared_state)
        found = find(backbone, attachment)
        drawn = (float(torch.rand(())), random.random())
        assert attachment.delta().files == delta
        assert [parameter.grad for parameter in attachment.parameters()] == [None] * len(attachment.parameters())
        assert AcceleratorState._shared_state == accelerate
        assert find(backbone, attachment) == found
    torch.manual_seed(5)
    random.seed(5)
    assert drawn == (float(torch.rand(())), random.random())
    assert len(found.tried) == len(found.losses) <= 60
    assert found.losses[0] == pytest.approx(np.log(2), rel=1e-3)
    assert found.rate == pytest.approx(found.tried[int(np.argmin(found.losses))] / 10, rel=0.05)
    assert 1e-6 < found.rate < 0.1


def test_a_loss_that_explodes_ends_the_search_and_one_that_never_was_finite_is_refused(
    backbone_of: Backbones, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = backbone_of("bert")
    real, calls, broken = Objective.total, 0, 12

    def exploding(self: Objective, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return real(self, logits, targets) * (float("nan") if calls >= broken else 1.0)

    monkeypatch.setattr(Objective, "total", exploding)
    with Lora().attach(backbone, LoraSettings(rank=4, layers=1), seed=0) as attachment:
        assert len(find(backbone, attachment).tried) == 11
        broken = 0
        with pytest.raises(SettingsInvalid, match="no learning rate was found"):
            find(backbone, attachment)
