"""Trunk then tail is the model's own forward, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model

from graftwork.backbones.backbone import Backbone, Batch
from graftwork.backbones.stack import find_stack
from graftwork.backbones.targets import linear_targets
from graftwork.errors import ModelUnsupported
from tests.backbones.conftest import open_backbone
from tests.backbones.tiny import ARCHITECTURES, save_model

Load = Callable[..., Backbone]
TEXTS = ("the fox", "a refund was requested for the broken parcel, is it not?", "dog", "prices rose by 3.5 percent")


def padded(backbone: Backbone) -> Batch:
    batch = backbone.collate(backbone.encode(TEXTS))
    assert batch.attention_mask.min() == 0
    return batch


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "t5", "bart", "mpnet", "deberta-v2"])
def test_trunk_then_tail_is_the_models_own_forward(backbone_of: Load, architecture: str) -> None:
    backbone = backbone_of(architecture)
    batch = padded(backbone)
    with torch.no_grad():
        whole = backbone.model(
            input_ids=batch.arguments["input_ids"], attention_mask=batch.attention_mask
        ).last_hidden_state
        for split in range(backbone.num_layers + 1):
            assert torch.equal(backbone.tail(backbone.trunk(batch, split), batch, split), whole), split
        assert torch.equal(backbone.forward(batch), whole)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_trunk_is_what_the_layer_receives(backbone_of: Load, architecture: str) -> None:
    backbone = backbone_of(architecture)
    batch = padded(backbone)
    with torch.no_grad():
        states = backbone.model(
            input_ids=batch.arguments["input_ids"], attention_mask=batch.attention_mask, output_hidden_states=True
        ).hidden_states
        for split in range(backbone.num_layers + 1):
            assert torch.equal(backbone.trunk(batch, split), states[split]), split


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "bart", "mpnet", "deberta-v2"])
def test_the_tail_starts_from_what_it_is_given_and_from_nothing_else(backbone_of: Load, architecture: str) -> None:
    backbone = backbone_of(architecture)
    batch = padded(backbone)
    received: list[torch.Tensor] = []
    with torch.no_grad():
        other = torch.roll(backbone.trunk(batch, 1), 1, dims=-1)
        with backbone.layers[2].register_forward_pre_hook(lambda _, args: received.append(args[0])):
            from_other = backbone.tail(other, batch, 1)
        assert not torch.equal(from_other, backbone.forward(batch))
        assert torch.equal(backbone.tail(received[0], batch, 2), from_other)


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
def test_layers_below_the_split_do_not_run(backbone_of: Load, architecture: str) -> None:
    backbone = backbone_of(architecture)
    batch = padded(backbone)
    with torch.no_grad():
        trunk, whole = backbone.trunk(batch, 2), backbone.forward(batch)
        for layer in backbone.layers[:2]:
            for parameter in layer.parameters():
                parameter.fill_(float("nan"))
        assert torch.equal(backbone.tail(trunk, batch, 2), whole)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_through_the_tail_are_those_of_the_whole_model(backbone_of: Load, architecture: str) -> None:
    backbone = backbone_of(architecture)
    batch = padded(backbone)
    split = 1
    upper = [parameter for layer in backbone.layers[split:] for parameter in layer.parameters()]
    for parameter in upper:
        parameter.requires_grad_(True)
    with torch.no_grad():
        trunk = backbone.trunk(batch, split)
    target = torch.linspace(-1, 1, backbone.width)

    def gradients(hidden: torch.Tensor) -> list[torch.Tensor | None]:
        loss = (backbone.pool(hidden, batch.attention_mask) @ target).square().sum()
        return list(torch.autograd.grad(loss, upper, allow_unused=True))

    through_tail = gradients(backbone.tail(trunk, batch, split))
    through_whole = gradients(backbone.forward(batch))
    assert any(gradient is not None for gradient in through_tail)
    for tail, whole in zip(through_tail, through_whole, strict=True):
        assert (tail is None) == (whole is None)
        if tail is not None and whole is not None:
            assert torch.equal(tail, whole)


def test_gradients_reach_what_the_tail_is_given(backbone_of: Load) -> None:
    backbone = backbone_of("bert")
    batch = padded(backbone)
    hidden = backbone.trunk(batch, 2).detach().requires_grad_(True)
    backbone.tail(hidden, batch, 2).sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.abs().sum() > 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_split_model_with_lora_injected_is_the_whole_model_with_lora(backbone_of: Load, architecture: str) -> None:
    backbone = backbone_of(architecture)
    batch = padded(backbone)
    with torch.no_grad():
        bare = backbone.forward(batch)
    upper = [
        f"{layer}.{name}"
        for layer, module in zip(backbone.layer_names[1:], backbone.layers[1:], strict=True)
        for name, _ in module.named_modules()
        if name.endswith(linear_targets(backbone)["all"])
    ]
    config = LoraConfig(
        r=2,
        target_modules=upper,
        init_lora_weights=False,
        fan_in_fan_out=architecture == "gpt2",
    )
    inject_adapter_in_model(config, backbone.model)
    with torch.no_grad():
        whole = backbone.forward(batch)
        assert not torch.equal(whole, bare)
        for split in range(backbone.num_layers + 1):
            assert torch.equal(backbone.tail(backbone.trunk(batch, split), batch, split), whole)
    adapters = [p for name, p in backbone.model.named_parameters() if "lora_" in name]
    backbone.tail(backbone.trunk(batch, 1).detach(), batch, 1).sum().backward()
    assert all(parameter.grad is not None for parameter in adapters)


def test_a_model_is_whole_again_after_a_failure_in_the_tail(backbone_of: Load) -> None:
    backbone = backbone_of("bert")
    batch = padded(backbone)
    with torch.no_grad():
        whole = backbone.forward(batch)
        with pytest.raises(RuntimeError):
            backbone.tail(torch.zeros(1, 1, 7), batch, 1)
        assert torch.equal(backbone.forward(batch), whole)
    assert all("forward" not in layer.__dict__ for layer in backbone.layers)


def test_a_forward_that_somebody_else_put_on_a_layer_is_kept(backbone_of: Load) -> None:
    backbone = backbone_of("bert")
    batch = padded(backbone)
    layer = backbone.layers[0]
    original = layer.forward
    doubled = lambda *args, **kwargs: 2 * original(*args, **kwargs)  # noqa: E731
    layer.forward = doubled
    with torch.no_grad():
        whole = backbone.forward(batch)
        assert torch.equal(backbone.tail(backbone.trunk(batch, 2), batch, 2), whole)
    assert layer.forward is doubled


@pytest.mark.parametrize("split", [-1, 4])
def test_there_is_no_split_outside_the_stack(backbone_of: Load, split: int) -> None:
    backbone = backbone_of("bert")
    with pytest.raises(ValueError, match=rf"split {split} is outside 0\.\.3"):
        backbone.trunk(padded(backbone), split)


def test_layers_that_share_weights_are_refused_with_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(ModelUnsupported) as caught:
        open_backbone(save_model(tmp_path / "albert", "albert"))
    assert "cannot be split" in caught.value.message
    assert "encoder.albert_layer_groups (1)" in str(caught.value)


def test_a_model_that_wants_more_than_tokens_is_refused() -> None:
    class Picky(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList([torch.nn.Linear(2, 2)])

    def run() -> None:
        raise ValueError("you must give decoder_input_ids")

    with pytest.raises(ModelUnsupported, match="you must give decoder_input_ids"):
        find_stack(Picky(), run, 1)


def test_two_lists_that_both_could_be_the_stack_are_refused() -> None:
    class Twin(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
            self.right = torch.nn.ModuleList([torch.nn.Linear(2, 2)])

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(self.right[0](self.left[0](hidden)))

    twin = Twin()
    with pytest.raises(ModelUnsupported, match="2 of them are run once each"):
        find_stack(twin, lambda: twin(torch.zeros(1, 3, 2)), 1)


def test_lists_inside_the_layers_do_not_confuse_the_search(backbone_of: Load) -> None:
    # Each of this model's two layers holds a list of two modules of its own.
    assert backbone_of("t5").layer_names == ("encoder.block.0", "encoder.block.1")
