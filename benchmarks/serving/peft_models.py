"""PEFT's own models of many adapters, for comparison."""

from __future__ import annotations

import copy
from typing import Any

import peft
import torch

from benchmarks.serving.made import RANK, TARGETS
from graftwork.backbones.backbone import Backbone


def peft_model(backbone: Backbone, count: int) -> Any:
    """The base with adapters `a0`, `a1`, ... in the base's dtype; random numbers in place of PEFT's zeros."""
    config = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=list(TARGETS))
    model = peft.get_peft_model(copy.deepcopy(backbone.model), config, adapter_name="a0", autocast_adapter_dtype=False)
    for number in range(1, count):
        model.add_adapter(f"a{number}", config, autocast_adapter_dtype=False)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return model.eval()
