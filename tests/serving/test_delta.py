"""What is refused, and why: every tensor is used and every setting that matters is honoured."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from graftwork.backbones.backbone import Backbone
from graftwork.errors import ArtifactInvalid
from graftwork.registry.artifact import DELTA, DELTA_CONFIG
from graftwork.serving.delta import Delta, Place, adaptable, rank_bucket, read_delta
from tests.serving.builders import Made, Spec

QUERY = "base_model.model.encoder.layer.0.attention.self.query"


@pytest.fixture(scope="module")
def places(bert: Backbone) -> Mapping[str, Place]:
    return adaptable(bert)


@pytest.fixture
def parts(bert: Backbone, made: Callable[..., Made]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    files = made(bert, Spec(rank=4, alpha=8.0)).artifact.files
    return json.loads(files[DELTA_CONFIG]), load(files[DELTA])


Parts = tuple[dict[str, Any], dict[str, Tensor]]


def read(config: Mapping[str, Any], tensors: Mapping[str, Tensor], places: Mapping[str, Place]) -> Delta:
    return read_delta(json.dumps(config).encode(), save(dict(tensors)), places, torch.float32)


def test_what_peft_writes_is_read_whole(parts: Parts, places: Mapping[str, Place]) -> None:
    config, tensors = parts
    delta = read(config, tensors, places)
    assert delta.split == 0
    assert set(delta.buckets) == {8}
    update = delta.buckets[8]["encoder.layer.0.attention.self.query"]
    assert torch.equal(update.a[:, :4], tensors[f"{QUERY}.lora_A.weight"].T)
    assert torch.equal(update.b[:4], tensors[f"{QUERY}.lora_B.weight"].T * 2.0)
    assert not update.a[:, 4:].any()
    assert not update.b[4:].any()
    assert 2 * len(delta.buckets[8]) == len(tensors)


def test_scaling_follows_rslora_and_patterns(parts: Parts, places: Mapping[str, Place]) -> None:
    config, tensors = parts
    b = tensors[f"{QUERY}.lora_B.weight"].T

    def scaled(**changes: Any) -> Tensor:
        return read(config | changes, tensors, places).buckets[8]["encoder.layer.0.attention.self.query"].b[:4]

    torch.testing.assert_close(scaled(use_rslora=True), b * (8.0 / math.sqrt(4)))
    torch.testing.assert_close(scaled(alpha_pattern={"query": 1.0}), b * 0.25)
    torch.testing.assert_close(scaled(alpha_pattern={"layer.1.attention.self.query": 1.0}), b * 2.0)
    torch.testing.assert_close(scaled(r=2, rank_pattern={"query": 4, "value": 4}, lora_alpha=4), b)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["classifier"]}, "modules_to_save"),
        ({"peft_type": "IA3"}, "peft_type"),
        ({"lora_bias": True}, "lora_bias"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"something_of_tomorrow": {"on": True}}, "something_of_tomorrow"),
        ({"r": 0}, "r"),
        ({"r": True}, "r"),
        ({"lora_alpha": "8"}, "lora_alpha"),
        ({"rank_pattern": {"query": -1}}, "rank_pattern"),
        ({"alpha_pattern": ["query"]}, "alpha_pattern"),
        ({"target_modules": None}, "target_modules"),
        ({"target_modules": [1]}, "target_modules"),
        ({"layers_to_transform": "all"}, "layers_to_transform"),
    ],
)
def test_settings_that_are_not_served_are_named(
    change: dict[str, Any], field: str, parts: Parts, places: Mapping[str, Place]
) -> None:
    config, tensors = parts
    with pytest.raises(ArtifactInvalid) as caught:
        read(config | change, tensors, places)
    assert [problem.where for problem in caught.value.problems] == [f"adapter_config.json, {field}"]


def test_all_mistakes_in_the_settings_are_listed_at_once(parts: Parts, places: Mapping[str, Place]) -> None:
    config, tensors = parts
    with pytest.raises(ArtifactInvalid) as caught:
        read(config | {"use_dora": True, "bias": "all", "r": None}, tensors, places)
    assert len(caught.value.problems) == 3


def without(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.pop(name)


def replaced(name: str, tensor: Tensor) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.update({name: tensor})


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (without(f"{QUERY}.lora_B.weight"), "has only its A"),
        (replaced(f"{QUERY}.lora_A.weight", torch.zeros(4, 31)), r"A has the shape \[4, 31\] instead of \[4, 32\]"),
        (replaced(f"{QUERY}.lora_A.weight", torch.zeros(5, 32)), r"A has the shape \[5, 32\] instead of \[4, 32\]"),
        (replaced(f"{QUERY}.lora_B.weight", torch.full((32, 4), torch.nan)), "holds NaN or infinity"),
        (replaced(f"{QUERY}.lora_B.weight", torch.full((32, 4), 3e38)), "holds NaN or infinity"),
        (replaced("base_model.model.pooler.dense.weight", torch.zeros(1)), "nothing would use it"),
        (replaced(f"{QUERY}.bias", torch.zeros(32)), "nothing would use it"),
        (replaced("encoder.layer.0.lora_A.weight", torch.zeros(4, 32)), "nothing would use it"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    spoil: Callable[[dict[str, Tensor]], object], complaint: str, parts: Parts, places: Mapping[str, Place]
) -> None:
    config, tensors = parts
    spoil(tensors)
    with pytest.raises(ArtifactInvalid, match=complaint):
        read(config, tensors, places)


def test_updates_of_modules_that_the_base_does_not_have_are_refused(parts: Parts, places: Mapping[str, Place]) -> None:
    config, tensors = parts
    extra = "base_model.model.encoder.layer.9.attention.self.query"
    tensors[f"{extra}.lora_A.weight"] = torch.zeros(4, 32)
    tensors[f"{extra}.lora_B.weight"] = torch.zeros(32, 4)
    with pytest.raises(ArtifactInvalid, match=r"layer\.9.*is no linear module inside the base's layers"):
        read(config, tensors, places)


@pytest.mark.parametrize("change", [{"target_modules": ["value"]}, {"layers_to_transform": [1, 2]}])
def test_updates_that_peft_would_not_apply_are_refused(
    change: dict[str, Any], parts: Parts, places: Mapping[str, Place]
) -> None:
    config, tensors = parts
    with pytest.raises(ArtifactInvalid, match="not among the target_modules or layers"):
        read(config | change, tensors, places)


def test_an_empty_delta_is_refused(parts: Parts, places: Mapping[str, Place]) -> None:
    with pytest.raises(ArtifactInvalid, match="holds no update"):
        read(parts[0], {}, places)


@pytest.mark.parametrize("pattern", ["(", "(([a-z.0-9_]|[a-z.0-9_])*)*[A-Z]"])
def test_a_pattern_can_neither_break_nor_stall_the_loader(
    pattern: str, parts: Parts, places: Mapping[str, Place]
) -> None:
    config, tensors = parts
    with pytest.raises(ArtifactInvalid, match="a pattern cannot be used") as caught:
        read(config | {"rank_pattern": {pattern: 4}}, tensors, places)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
def test_a_config_that_is_no_json_object_is_refused(content: bytes, parts: Parts, places: Mapping[str, Place]) -> None:
    with pytest.raises(ArtifactInvalid):
        read_delta(content, save(parts[1]), places, torch.float32)


def test_only_linear_modules_inside_the_layers_that_see_rows_of_tokens_can_be_adapted(
    backbone_of: Callable[..., Backbone],
) -> None:
    bert = adaptable(backbone_of("bert"))
    assert "pooler.dense" not in bert
    assert len(bert) == 3 * 6
    place = bert["encoder.layer.2.intermediate.dense"]
    assert (place.inputs, place.outputs, place.layer) == (32, 48, 2)
    fused = adaptable(backbone_of("gpt2"))["h.1.attn.c_attn"]
    assert (fused.inputs, fused.outputs, fused.layer) == (32, 96, 1)


def test_ranks_are_padded_to_powers_of_two() -> None:
    assert [rank_bucket(rank) for rank in (1, 7, 8, 9, 16, 17, 512)] == [8, 8, 8, 16, 16, 32, 512]
