"""Which linear layers LoRA goes into."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from peft import LoraConfig, inject_adapter_in_model
from transformers.pytorch_utils import Conv1D

from graftwork.backbones.backbone import Backbone
from graftwork.backbones.targets import linear_targets
from tests.backbones.tiny import LAYERS

EXPECTED = {
    "bert": (("query", "value"), ("key", "output.dense", "intermediate.dense", "query", "value"), 6),
    "roberta": (("query", "value"), ("key", "output.dense", "intermediate.dense", "query", "value"), 6),
    "distilbert": (("q_lin", "v_lin"), ("k_lin", "lin1", "lin2", "out_lin", "q_lin", "v_lin"), 6),
    "modernbert": (("Wqkv",), ("Wi", "Wo", "Wqkv"), 4),
    "gpt2": (("c_attn",), ("c_attn", "c_fc", "c_proj"), 4),
    "llama": (
        ("q_proj", "v_proj"),
        ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"),
        7,
    ),
}


@pytest.mark.parametrize("architecture", EXPECTED)
def test_targets_of_each_architecture(backbone_of: Callable[..., Backbone], architecture: str) -> None:
    attention, everything, _ = EXPECTED[architecture]
    targets = linear_targets(backbone_of(architecture))
    assert targets["attention"] == attention
    assert targets["all"] == tuple(sorted(everything))


@pytest.mark.parametrize("architecture", EXPECTED)
def test_peft_finds_every_linear_layer_of_the_stack_and_none_outside(
    backbone_of: Callable[..., Backbone], architecture: str
) -> None:
    backbone = backbone_of(architecture)
    conv = any(isinstance(module, Conv1D) for module in backbone.model.modules())
    assert conv == (architecture == "gpt2")
    config = LoraConfig(r=2, target_modules=list(linear_targets(backbone)["all"]), fan_in_fan_out=conv)
    inject_adapter_in_model(config, backbone.model)
    adapted = {name.split(".lora_A")[0] for name, _ in backbone.model.named_parameters() if ".lora_A" in name}
    assert len(adapted) == LAYERS * EXPECTED[architecture][2]
    assert all(name.startswith(tuple(f"{layer}." for layer in backbone.layer_names)) for name in adapted)
