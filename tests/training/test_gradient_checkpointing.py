"""Layers that are computed again on the way back: the same gradients, less memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from graftwork.adaptation import STRATEGIES
from graftwork.backbones.backbone import Backbone
from graftwork.backbones.network import read_config
from graftwork.backbones.recompute import recomputed
from graftwork.training.activations import Activations
from graftwork.training.config import TrainingConfig
from graftwork.training.loop import fine_tune
from graftwork.training.plan import Plan, make_plan
from graftwork.training.progress import Silent
from graftwork.training.start import Rows, Start

Backbones = Callable[..., Backbone]
Saved = Callable[[str], Path]
LENGTHS = [12, 9, 12, 11, 7, 12]
DROPOUT = ("lora.dropout=0.3",)
LABELS = np.array([0, 1, 0, 1, 1, 0])


def settings_of(strategy: str, *assignments: str) -> TrainingConfig:
    return TrainingConfig.parse(strategy=strategy, assignments=[*(DROPOUT if strategy == "lora" else ()), *assignments])


def ids_of(lengths: list[int]) -> list[list[int]]:
    return [[1 + (row * 7 + place * 3) % 40 for place in range(length)] for row, length in enumerate(lengths)]


def gradients(
    backbone: Backbone, strategy: str, *, again: bool, lengths: list[int] = LENGTHS
) -> tuple[list[Tensor], int]:
    """Gradients of a batch with dropout on, and the bytes that autograd keeps for them."""
    kept: dict[int, int] = {}
    alive: list[Any] = []

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        alive.append(tensor)
        return tensor

    with STRATEGIES[strategy].attach(backbone, settings_of(strategy).settings_of(strategy), seed=0) as attachment:
        activations = Activations(backbone, ids_of(lengths), split=attachment.split)
        parameters = attachment.parameters()
        if strategy == "lora":  # its B is nought at first, and gives A no gradient
            for place, parameter in enumerate(parameters):
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(place))
        attachment.train(True)
        torch.manual_seed(5)
        with recomputed(backbone, again):
            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                vectors = activations.vectors(range(len(lengths)), attachment)
            (vectors * torch.linspace(-1, 1, vectors.numel()).view_as(vectors)).sum().backward()
        own = {parameter.data_ptr() for parameter in backbone.model.parameters()}
        found = [parameter.grad for parameter in parameters if parameter.grad is not None]
        assert len(found) == len(parameters)
        return found, sum(nbytes for storage, nbytes in kept.items() if storage not in own)


@pytest.mark.parametrize("strategy", ["lora", "prefix-tuning", "partial", "full"])
@pytest.mark.parametrize("architecture", ["bert", "modernbert", "gpt2", "llama"])
def test_gradients_are_the_same_bits_and_less_is_kept(backbone_of: Backbones, architecture: str, strategy: str) -> None:
    backbone = backbone_of(architecture)
    before = [layer.forward for layer in backbone.layers]
    plain, much = gradients(backbone, strategy, again=False)
    again, little = gradients(backbone, strategy, again=True)
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))
    assert any(gradient.any() for gradient in plain)
    assert little < 0.75 * much
    assert [layer.forward for layer in backbone.layers] == before


@pytest.mark.parametrize("strategy", ["lora", "full"])
def test_a_run_gives_the_same_bits_with_it(backbone_of: Backbones, strategy: str) -> None:
    def trained(wanted: str) -> list[Tensor]:
        config = settings_of(strategy, f"fine_tuning.gradient_checkpointing={wanted}", "fine_tuning.micro_batch_size=2")
        backbone = backbone_of("bert")
        with STRATEGIES[strategy].attach(backbone, config.settings_of(strategy), seed=0) as attachment:
            rows = Activations(backbone, ids_of(LENGTHS), split=attachment.split)
            labelled = Rows.of(rows, LABELS, backbone.device)
            weight, bias = np.zeros((2, backbone.width)), np.zeros(2)
            start = Start(backbone, attachment, weight, bias, labelled, labelled, config.fine_tuning, seed=0)
            tuned = fine_tune(start, learning_rate=1e-3, progress=Silent())
            assert tuned.best_step > 0
            return [tuned.weight, *(parameter.detach().clone() for parameter in attachment.parameters())]

    assert all(torch.equal(one, other) for one, other in zip(trained("false"), trained("true"), strict=True))


def planned(folder: Path, strategy: str, *assignments: str) -> Plan:
    config = settings_of(strategy, *assignments)
    return make_plan(read_config(folder), config, strategy=strategy, lengths=[12] * 40, classes=2, dtype=torch.float32)


@pytest.mark.parametrize("strategy", ["lora", "prefix-tuning", "partial", "full"])
def test_a_plan_tells_of_less_memory_and_more_work(saved: Saved, strategy: str) -> None:
    plain = planned(saved("bert"), strategy)
    less = planned(saved("bert"), strategy, "fine_tuning.gradient_checkpointing=true")
    assert less.memory.activations < 0.75 * plain.memory.activations
    assert plain.flops < less.flops < 1.5 * plain.flops
    assert (less.trainable, less.memory.optimizer) == (plain.trainable, plain.memory.optimizer)


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_a_plan_counts_what_the_real_run_keeps(saved: Saved, backbone_of: Backbones, architecture: str) -> None:
    less = planned(saved(architecture), "lora", "fine_tuning.gradient_checkpointing=true").memory.activations
    assert gradients(backbone_of(architecture), "lora", again=True, lengths=[12] * 31 + [11])[1] == less


def test_how_memory_is_saved_decides_no_result() -> None:
    config = settings_of("lora", "fine_tuning.gradient_checkpointing=true")
    assert config.fine_tuning.gradient_checkpointing
    assert "gradient_checkpointing" not in config.model_dump()["fine_tuning"]
