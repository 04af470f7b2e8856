"""A plan says what the real thing takes, without making it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from graftwork.adaptation import STRATEGIES
from graftwork.backbones.backbone import Backbone
from graftwork.backbones.network import read_config
from graftwork.training.config import TrainingConfig
from graftwork.training.plan import Plan, make_plan, matrix_rate

Backbones = Callable[..., Backbone]
Saved = Callable[[str], Path]
LENGTHS = [7] * 36 + [12] * 4


def planned(folder: Path, *assignments: str, strategy: str = "lora") -> Plan:
    config = TrainingConfig.parse(strategy=strategy, assignments=["fine_tuning.batch_size=8", *assignments])
    return make_plan(read_config(folder), config, strategy=strategy, lengths=LENGTHS, classes=3, dtype=torch.float32)


def really_kept(backbone: Backbone, strategy: str, assignments: tuple[str, ...]) -> tuple[int, int]:
    """Values that the real attachment trains, and bytes that autograd keeps of a real batch of the longest texts."""
    config = TrainingConfig.parse(strategy=strategy, assignments=assignments)
    batch = backbone.collate([*[[1] * 12] * 7, [1] * 11])  # padded, as most batches are: a mask is made
    kept: dict[int, int] = {}
    alive: list[Any] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        alive.append(tensor)
        return tensor

    with STRATEGIES[strategy].attach(backbone, config.settings_of(strategy), seed=0) as attachment:
        trained = sum(parameter.numel() for parameter in attachment.parameters())
        with torch.no_grad():
            hidden = backbone.trunk(batch, attachment.split)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            backbone.pool(backbone.tail(hidden, batch, attachment.split), batch.attention_mask)
        own = {parameter.data_ptr() for parameter in backbone.model.parameters()}
    return trained, sum(nbytes for storage, nbytes in kept.items() if storage not in own)


@pytest.mark.parametrize(
    ("strategy", "assignments"),
    [
        ("lora", ()),
        ("lora", ("lora.layers=1", "lora.rank=2")),
        ("prefix-tuning", ()),
        ("prefix-tuning", ("prefix_tuning.layers=1",)),
    ],
)
@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_it_counts_what_the_real_run_trains_and_keeps(
    backbone_of: Backbones, saved: Saved, architecture: str, strategy: str, assignments: tuple[str, ...]
) -> None:
    backbone = backbone_of(architecture)
    plan = planned(saved(architecture), *assignments, strategy=strategy)
    trained, kept = really_kept(backbone, strategy, assignments)
    head = 3 * (backbone.width + 1)
    assert plan.parameters == sum(parameter.numel() for parameter in backbone.model.parameters())
    assert plan.trainable == trained + head

    assert plan.memory.activations == kept
    assert plan.memory.optimizer == 8 * plan.trainable
    assert plan.memory.cache == (sum(LENGTHS) * backbone.width * 4 if assignments else 0)
    assert plan.steps == 4 * 4  # 32 rows in batches of 8, four epochs


def test_a_tail_costs_less_than_the_whole_and_the_probe_least(saved: Saved) -> None:
    whole, tail = planned(saved("bert")), planned(saved("bert"), "lora.layers=1")
    probe = planned(saved("bert"), strategy="feature-extraction")
    assert (whole.split, tail.split, probe.split) == (0, 2, 3)
    assert probe.flops < tail.flops < 0.6 * whole.flops
    assert (probe.steps, probe.memory.optimizer, probe.memory.activations) == (0, 0, 0)
    assert probe.trainable == 3 * 33


def test_the_work_of_the_probe_is_that_of_the_matrices(saved: Saved, backbone_of: Backbones) -> None:
    """Per token and linear layer, two operations a weight; attention's own products come on top."""
    backbone = backbone_of("bert")
    linear = sum(
        module.weight.numel()
        for layer in backbone.layers
        for module in layer.modules()
        if isinstance(module, torch.nn.Linear)
    )
    work = planned(saved("bert"), strategy="feature-extraction").flops
    assert 2 * linear * sum(LENGTHS) <= work < 1.2 * 2 * linear * sum(LENGTHS)
    assert planned(saved("bert"), strategy="feature-extraction").seconds(2.0 * work) == pytest.approx(0.5)


def test_layers_of_a_70b_model_are_planned_without_memory() -> None:
    shape = {"hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64, "num_key_value_heads": 8}
    model = LlamaConfig(**shape, num_hidden_layers=2, vocab_size=128_256)
    config = TrainingConfig.parse(strategy="lora", assignments=["lora.init=pissa"])
    plan = make_plan(model, config, strategy="lora", lengths=[64] * 100, classes=2, dtype=torch.bfloat16)
    layer = 2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28672 + 2 * 8192
    assert plan.parameters == 2 * layer + 128_256 * 8192 + 8192
    assert plan.memory.weights == 2 * plan.parameters
    low_rank = 8 * (2 * (8192 + 8192) + 2 * (8192 + 1024) + 3 * (8192 + 28672))
    assert plan.trainable == 2 * low_rank + 2 * 8193


def test_settings_that_do_not_fit_are_refused_as_in_a_run_and_nothing_stays_behind(saved: Saved) -> None:
    from graftwork.errors import SettingsInvalid

    to = torch.nn.Module.to
    with pytest.raises(SettingsInvalid, match="the base has 3 layers"):
        planned(saved("bert"), "lora.layers=9")
    assert torch.nn.Module.to is to
    assert type(torch.zeros(1)) is torch.Tensor


def test_the_rate_of_a_machine_is_a_rate() -> None:
    assert 1e7 < matrix_rate(64, rows=32) < 1e16


@pytest.mark.parametrize(("strategy", "frozen"), [("partial", ("embeddings.", "encoder.layer.0.")), ("full", ())])
def test_tuned_weights_are_counted_as_they_will_be_trained(
    strategy: str, frozen: tuple[str, ...], saved: Saved, backbone_of: Backbones
) -> None:
    plan = planned(saved("bert"), strategy=strategy)
    numbers = sum(
        parameter.numel()
        for name, parameter in backbone_of("bert").model.named_parameters()
        if not name.startswith(("pooler.", *frozen))
    )
    assert plan.trainable == numbers + 3 * 33
    assert plan.split == (1 if frozen else 0)


def test_a_split_that_is_looked_for_is_planned_as_the_dearest_with_the_whole_budget(saved: Saved) -> None:
    searching = planned(saved("bert"), "partial.freeze_layers=auto", "partial.budget=3", strategy="partial")
    deepest = planned(saved("bert"), "partial.freeze_layers=0", strategy="partial")
    assert (searching.split, searching.trainable) == (0, deepest.trainable)
    assert searching.flops == deepest.flops + 3 * 50_000_000_000
