from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load, save
from transformers import AutoModel

from graftwork.adaptation.lora import Lora, LoraAttachment, LoraSettings
from graftwork.backbones.backbone import Backbone
from graftwork.errors import ArtifactInvalid, SettingsInvalid
from tests.backbones.tiny import ARCHITECTURES, CORPUS, LAYERS

Backbones = Callable[..., Backbone]
EXACT = LoraSettings(rank=4, alpha=8, store="float32")


def features(backbone: Backbone) -> torch.Tensor:
    return backbone.embed(CORPUS)


def disturb(attachment: LoraAttachment, seed: int = 3) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in attachment.parameters():
            parameter.normal_(std=0.2, generator=generator)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_fresh_delta_changes_nothing_and_leaves_nothing(backbone_of: Backbones, architecture: str) -> None:
    backbone = backbone_of(architecture)
    before = features(backbone)
    names = [name for name, _ in backbone.model.named_modules()]
    weights = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    with Lora().attach(backbone, EXACT, seed=0) as attachment:
        assert torch.equal(features(backbone), before)
        disturb(attachment)
        assert not torch.allclose(features(backbone), before, atol=1e-3)
    assert torch.equal(features(backbone), before)
    assert [name for name, _ in backbone.model.named_modules()] == names
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    after = backbone.model.state_dict()
    assert all(torch.equal(after[name], weights[name]) for name in weights)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_stored_delta_gives_the_same_features_again_and_in_plain_peft(
    backbone_of: Backbones, saved: Callable[[str], Path], tmp_path: Path, architecture: str
) -> None:
    backbone = backbone_of(architecture)
    with Lora().attach(backbone, EXACT, seed=0) as attachment:
        disturb(attachment)
        wanted = features(backbone)
        delta = attachment.delta()
    with Lora().restore(backbone, delta.files):
        assert torch.equal(features(backbone), wanted)
    for name, content in delta.files.items():
        (tmp_path / name).write_bytes(content)
    plain = AutoModel.from_pretrained(saved(architecture), dtype=torch.float32)
    adapted = PeftModel.from_pretrained(plain, tmp_path).eval()
    batch = backbone.collate(backbone.encode(CORPUS))
    with torch.no_grad():
        hidden = adapted(input_ids=batch.arguments["input_ids"], attention_mask=batch.attention_mask).last_hidden_state
        pooled = backbone.pool(hidden, batch.attention_mask)
    torch.testing.assert_close(pooled, wanted, atol=2e-6, rtol=2e-5)


def test_half_precision_storage_rounds_and_halves(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    sizes = {}
    for store in ("float32", "float16"):
        with Lora().attach(backbone, LoraSettings(store=store), seed=0) as attachment:
            disturb(attachment)
            values = {name: parameter.detach().clone() for name, parameter in attachment.named.items()}
            delta = attachment.delta()
        stored = load(delta.files["adapter_model.safetensors"])
        assert {str(tensor.dtype) for tensor in stored.values()} == {f"torch.{store}"}
        assert {spec.dtype for spec in delta.tensors} == {store}
        for name, value in values.items():
            assert torch.equal(stored[name], value.to(stored[name].dtype))
        sizes[store] = sum(tensor.nbytes for tensor in stored.values())
    assert sizes["float16"] * 2 == sizes["float32"]


@pytest.mark.parametrize(("layers", "split"), [(None, 0), (3, 0), (2, 1), (1, 2)])
def test_only_the_top_layers_are_adapted(backbone_of: Backbones, layers: int | None, split: int) -> None:
    backbone = backbone_of("bert")
    settings = LoraSettings(layers=layers, store="float32")
    with Lora().attach(backbone, settings, seed=0) as attachment:
        assert attachment.split == split
        prefixes = tuple(f"base_model.model.{name}." for name in backbone.layer_names[split:])
        names = attachment.shapes()
        assert len(names) == 2 * 6 * (LAYERS - split)
        assert all(name.startswith(prefixes) for name in names)
        batch = backbone.collate(backbone.encode(CORPUS))
        with torch.no_grad():
            trunk = backbone.trunk(batch, split)
            disturb(attachment)
            assert torch.equal(backbone.trunk(batch, split), trunk)
        delta = attachment.delta()
    with Lora().restore(backbone, delta.files) as restored:
        assert restored.split == split


def test_attention_targets_are_query_and_value_with_the_rank_asked_for(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    with Lora().attach(backbone, LoraSettings(rank=2, targets="attention"), seed=0) as attachment:
        shapes = attachment.shapes()
    assert {name.split(".")[-3] for name in shapes} == {"query", "value"}
    assert {shape for name, shape in shapes.items() if "lora_A" in name} == {(2, 32)}
    assert {shape for name, shape in shapes.items() if "lora_B" in name} == {(32, 2)}


def test_the_seed_decides_the_bytes(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")

    def files(seed: int) -> dict[str, bytes]:
        torch.rand(seed + 1)  # the global generator has no say
        with Lora().attach(backbone, EXACT, seed=seed) as attachment:
            return attachment.delta().files

    assert files(0) == files(0)
    assert files(0) != files(1)


def test_dropout_acts_only_while_it_is_switched_on(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    with Lora().attach(backbone, LoraSettings(dropout=0.5, store="float32"), seed=0) as attachment:
        disturb(attachment)
        answer = features(backbone)
        assert torch.equal(features(backbone), answer)
        attachment.train(True)
        assert not torch.equal(features(backbone), features(backbone))
        attachment.train(False)
        assert torch.equal(features(backbone), answer)
        files = attachment.delta().files
    with Lora().restore(backbone, files):
        assert torch.equal(features(backbone), answer)


def test_attaching_leaves_the_global_generator_alone(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    before = torch.random.get_rng_state()
    with Lora().attach(backbone, EXACT, seed=0):
        pass
    assert torch.equal(torch.random.get_rng_state(), before)


def test_settings_that_do_not_fit_are_all_listed(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    with pytest.raises(SettingsInvalid) as caught:
        Lora().attach(backbone, LoraSettings(targets=("query", "c_attn", "nonsense"), layers=9), seed=0)
    assert [problem.where for problem in caught.value.problems] == ["lora.layers", "lora.targets", "lora.targets"]
    assert "'c_attn'" in str(caught.value)
    assert "'nonsense'" in str(caught.value)
    assert "intermediate.dense" in caught.value.remedy


VARIANTS: dict[str, dict[str, Any]] = {
    "rslora": {"rslora": True},
    "ranks by layer": {
        "rank_pattern": {r".*\.1\..*": 2, "query|q_proj|c_attn": 6},
        "alpha_pattern": {r".*\.2\..*": 32.0},
    },
    "both": {"rslora": True, "rank_pattern": {r".*\.0\..*": 1}},
    "pissa": {"init": "pissa"},
    "pissa with all": {"init": "pissa", "rslora": True, "rank_pattern": {r".*\.1\..*": 2}},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
def test_variants_are_published_as_plain_lora_that_peft_runs_the_same(
    backbone_of: Backbones, saved: Callable[[str], Path], tmp_path: Path, architecture: str, variant: str
) -> None:
    backbone = backbone_of(architecture)
    patterns = {"ranks by layer", "both", "pissa with all"}
    settings = VARIANTS[variant]
    if architecture != "bert" and variant in patterns:
        # The endings differ by architecture; the layers' numbers do not.
        settings = {**settings, "rank_pattern": {r".*\.1\..*": 2}}
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    bare = features(backbone)
    with Lora().attach(backbone, LoraSettings(rank=4, alpha=8, store="float32", **settings), seed=0) as attachment:
        torch.testing.assert_close(features(backbone), bare, atol=1e-5, rtol=1e-5)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in attachment.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        wanted = features(backbone)
        delta = attachment.delta()
    assert not torch.allclose(wanted, bare, atol=1e-2)
    after = backbone.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    config = json.loads(delta.files["adapter_config.json"])
    assert config["init_lora_weights"] is True
    for name, content in delta.files.items():
        (tmp_path / name).write_bytes(content)
    adapted = PeftModel.from_pretrained(AutoModel.from_pretrained(saved(architecture), dtype=torch.float32), tmp_path)
    batch = backbone.collate(backbone.encode(CORPUS))
    with torch.no_grad():
        hidden = adapted.eval()(
            input_ids=batch.arguments["input_ids"], attention_mask=batch.attention_mask
        ).last_hidden_state
    torch.testing.assert_close(backbone.pool(hidden, batch.attention_mask), wanted, atol=2e-5, rtol=2e-4)
    with Lora().restore(backbone, delta.files):
        torch.testing.assert_close(features(backbone), wanted, atol=2e-5, rtol=2e-4)


def test_pissa_trains_the_principal_part_and_publishes_only_what_changed(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    name = "encoder.layer.0.attention.self.query"
    weight = backbone.model.get_parameter(f"{name}.weight").detach().clone()
    with Lora().attach(backbone, LoraSettings(rank=4, alpha=8, init="pissa"), seed=0) as attachment:
        a, b = (attachment.named[f"base_model.model.{name}.lora_{side}.weight"].detach() for side in "AB")
        values = torch.linalg.svdvals(weight)
        assert values[:4].norm() >= (2 * b @ a).norm() > 0.97 * values[:4].norm()
        torch.testing.assert_close(backbone.model.get_parameter(f"{name}.base_layer.weight") + 2 * b @ a, weight)
        stored = load(attachment.delta().files["adapter_model.safetensors"])
    pair = [stored[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB"]
    assert [tuple(half.shape) for half in pair] == [(8, 32), (32, 8)]
    # Nothing was trained: nothing is left, although both products are as large as the weights.
    assert float((pair[1].float() @ pair[0].float()).abs().max()) < 1e-6


def test_a_rank_above_the_layers_size_and_patterns_that_fit_nothing_are_listed(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    with pytest.raises(SettingsInvalid) as caught:
        Lora().attach(backbone, LoraSettings(rank_pattern={"qurey": 2, "(": 3}, alpha_pattern={"c_attn": 4.0}), seed=0)
    assert [(problem.where, problem.what.split(" ")[0]) for problem in caught.value.problems] == [
        ("lora.rank_pattern", "'qurey'"),
        ("lora.rank_pattern", "'('"),
        ("lora.alpha_pattern", "'c_attn'"),
    ]
    with pytest.raises(SettingsInvalid, match=r"40 is above what .*query can use: its weight is 32 x 32"):
        Lora().attach(backbone, LoraSettings(rank=40, targets=("query",)), seed=0)


class TestDamagedDeltas:
    @pytest.fixture
    def files(self, backbone_of: Backbones) -> dict[str, bytes]:
        with Lora().attach(backbone_of("bert"), EXACT, seed=0) as attachment:
            return attachment.delta().files

    def refuse(self, backbone: Backbone, files: dict[str, bytes]) -> str:
        before = features(backbone)
        with pytest.raises(ArtifactInvalid) as caught:
            Lora().restore(backbone, files)
        assert torch.equal(features(backbone), before)
        assert not any("lora" in name for name, _ in backbone.model.named_modules())
        return str(caught.value)

    def test_missing_left_over_and_misshapen_tensors_are_named(
        self, backbone_of: Backbones, files: dict[str, bytes]
    ) -> None:
        tensors = load(files["adapter_model.safetensors"])
        names = sorted(tensors)
        gone, bent = names[0], names[1]
        del tensors[gone]
        tensors[bent] = tensors[bent][:-1].contiguous()
        tensors["base_model.model.other.lora_A.weight"] = torch.zeros(4, 32)
        told = self.refuse(backbone_of("bert"), {**files, "adapter_model.safetensors": save(tensors)})
        assert f"{gone}: is missing" in told
        assert f"{bent}: has the shape" in told
        assert "base_model.model.other.lora_A.weight: is left over" in told

    def test_modules_of_another_architecture_are_named(self, backbone_of: Backbones, files: dict[str, bytes]) -> None:
        told = self.refuse(backbone_of("gpt2"), files)
        assert "target_modules: encoder.layer.0." in told

    def test_another_method_is_refused(self, backbone_of: Backbones, files: dict[str, bytes]) -> None:
        config = json.loads(files["adapter_config.json"])
        config["peft_type"] = "IA3"
        told = self.refuse(backbone_of("bert"), {**files, "adapter_config.json": json.dumps(config).encode()})
        assert "not of a LoRA adapter" in told
