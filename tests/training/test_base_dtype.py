"""LoRA over a frozen base in few bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from graftwork.adaptation.inference import adapted_features, head_logits
from graftwork.backbones.network import read_config
from graftwork.backbones.quantized import QuantizedLinear, bytes_of
from graftwork.errors import SettingsInvalid
from graftwork.registry.manifest import BaseBits
from graftwork.training.config import TrainingConfig
from graftwork.training.job import train
from graftwork.training.plan import make_plan
from tests.backbones.conftest import open_backbone
from tests.training.test_job import sentences

Saved = Callable[[str], Path]


def config_of(bits: str, *assignments: str, strategy: str = "lora") -> TrainingConfig:
    return TrainingConfig.parse(
        strategy=strategy,
        assignments=[f"base_dtype={bits}", "fine_tuning.learning_rate=1e-4", "fine_tuning.patience=4", *assignments],
    )


@pytest.mark.parametrize("bits", ["int8", "nf4"])
def test_what_is_published_answers_as_on_a_base_of_the_values_read_back(saved: Saved, bits: BaseBits) -> None:
    losses: list[float] = []

    class Noted:
        def stage(self, name: str, total: int | None) -> None: ...
        def note(self, text: str) -> None: ...
        def advance(self, steps: int = 1, **metrics: float) -> None:
            losses.extend(value for name, value in metrics.items() if name == "loss")

    backbone = open_backbone(saved("bert"), bits=bits)
    trained = train(backbone, sentences(3, 120), config=config_of(bits, "fine_tuning.batch_size=16"), progress=Noted())
    manifest = trained.artifact.manifest
    epoch = len(losses) // 4
    assert sum(losses[-epoch:]) < 0.5 * sum(losses[:epoch])
    assert (manifest.base_dtype, manifest.dtype, manifest.settings["base_dtype"]) == (bits, "float32", bits)
    assert "base-in-few-bits" in [warning.code for warning in manifest.warnings]

    texts = sentences(4, 12).texts
    logits = head_logits(trained.artifact, adapted_features(backbone, trained.artifact, texts))
    twin: Any = open_backbone(saved("bert"))
    for name, module in backbone.model.named_modules():
        if isinstance(module, QuantizedLinear):
            linear = twin.model.get_submodule(name)
            linear.weight = nn.Parameter(module.weight, requires_grad=False)
    torch.testing.assert_close(
        logits, head_logits(trained.artifact, adapted_features(twin, trained.artifact, texts)), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("bits", ["int8", "nf4"])
def test_the_plan_knows_the_bytes_of_the_base(saved: Saved, bits: BaseBits) -> None:
    plan = make_plan(
        read_config(saved("llama")), config_of(bits), strategy="lora", lengths=[7] * 40, classes=3, dtype=torch.float32
    )
    assert plan.memory.weights == bytes_of(open_backbone(saved("llama"), bits=bits).model)


def test_settings_that_do_not_go_together_are_refused(saved: Saved) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        config_of("int8", strategy="full")
    assert [problem.where for problem in caught.value.problems] == ["base_dtype"]
    with pytest.raises(SettingsInvalid) as caught:
        config_of("nf4", "lora.init=pissa")
    assert "pissa" in str(caught.value.problems[0])
    with pytest.raises(SettingsInvalid, match="the backbone was loaded with"):
        train(open_backbone(saved("bert")), sentences(3, 40), config=config_of("int8"))


def test_nothing_is_told_of_a_base_that_is_kept_as_it_is() -> None:
    assert "base_dtype" not in TrainingConfig().model_dump(mode="json")
