from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load, save
from transformers import AutoModel

from graftwork.adaptation.prefix import PrefixAttachment, PrefixTuning, PrefixTuningSettings
from graftwork.backbones.backbone import Backbone
from graftwork.errors import ArtifactInvalid, ModelUnsupported, SettingsInvalid
from tests.backbones.conftest import open_backbone
from tests.backbones.tiny import ARCHITECTURES, CORPUS, LAYERS, save_model

Backbones = Callable[..., Backbone]
EXACT = PrefixTuningSettings(length=5, store="float32")
NEAR: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


def features(backbone: Backbone) -> torch.Tensor:
    return backbone.embed(CORPUS)


def disturb(attachment: PrefixAttachment, seed: int = 3) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in attachment.parameters():
            parameter.normal_(generator=generator)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_stored_prefix_gives_the_same_features_again_and_nothing_is_left(
    backbone_of: Backbones, architecture: str
) -> None:
    backbone = backbone_of(architecture)
    before = features(backbone)
    names = [name for name, _ in backbone.model.named_modules()]
    weights = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    with PrefixTuning().attach(backbone, EXACT, seed=0) as attachment:
        disturb(attachment)
        wanted = features(backbone)
        delta = attachment.delta()
    assert not torch.allclose(wanted, before, atol=1e-2)
    assert torch.equal(features(backbone), before)
    with PrefixTuning().restore(backbone, delta.files) as restored:
        assert torch.equal(features(backbone), wanted)
        assert restored.delta().files == delta.files
    assert torch.equal(features(backbone), before)
    assert [name for name, _ in backbone.model.named_modules()] == names
    after = backbone.model.state_dict()
    assert all(torch.equal(after[name], weights[name]) for name in weights)
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_plain_peft_loads_a_decoders_prefix_and_answers_the_same(
    backbone_of: Backbones, saved: Callable[[str], Path], tmp_path: Path, architecture: str
) -> None:
    backbone = backbone_of(architecture)
    with PrefixTuning().attach(backbone, EXACT, seed=0) as attachment:
        disturb(attachment)
        wanted = features(backbone)
        delta = attachment.delta()
    for name, content in delta.files.items():
        (tmp_path / name).write_bytes(content)
    plain = AutoModel.from_pretrained(saved(architecture), dtype=torch.float32)
    torch.testing.assert_close(peft_features(PeftModel.from_pretrained(plain, tmp_path), backbone), wanted, **NEAR)


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_prefix_that_peft_made_and_saved_is_restored(
    backbone_of: Backbones, saved: Callable[[str], Path], tmp_path: Path, architecture: str, projection: bool
) -> None:
    backbone = backbone_of(architecture)
    plain = AutoModel.from_pretrained(saved(architecture), dtype=torch.float32)
    settings: dict[str, Any] = {"prefix_projection": projection, "encoder_hidden_size": 8 if projection else None}
    config = peft.PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=7, **settings)
    torch.manual_seed(1)
    made: Any = peft.get_peft_model(plain, config)
    made.save_pretrained(tmp_path)
    files = {name: (tmp_path / name).read_bytes() for name in (CONFIG, TENSORS)}
    with PrefixTuning().restore(backbone, files) as attachment:
        assert attachment.split == 0
        assert {tuple(p.shape) for p in attachment.parameters()} == {(backbone.attention.heads, 7, 8)}
        torch.testing.assert_close(features(backbone), peft_features(made, backbone), **NEAR)


def peft_features(model: Any, backbone: Backbone) -> torch.Tensor:
    batch = backbone.collate(backbone.encode(CORPUS))
    with torch.no_grad():
        hidden = model.eval()(
            input_ids=batch.arguments["input_ids"], attention_mask=batch.attention_mask
        ).last_hidden_state
    return backbone.pool(hidden, batch.attention_mask)


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
@pytest.mark.parametrize(("layers", "split"), [(None, 0), (3, 0), (2, 1), (1, 2)])
def test_a_prefix_of_the_top_layers_leaves_the_trunk_to_the_base(
    backbone_of: Backbones, architecture: str, layers: int | None, split: int
) -> None:
    backbone = backbone_of(architecture)
    batch = backbone.collate(backbone.encode(CORPUS))
    bare = backbone.trunk(batch, split)
    settings = PrefixTuningSettings(length=5, layers=layers, store="float32")
    with PrefixTuning().attach(backbone, settings, seed=0) as attachment:
        assert attachment.split == split
        assert attachment.depths() == [layer for layer in range(split, LAYERS) for _ in range(2)]
        disturb(attachment)
        with torch.no_grad():
            trunk, whole = backbone.trunk(batch, split), backbone.forward(batch)
            # What a decoder's tokens are told of their places moves only when every layer has a prefix.
            assert torch.equal(trunk, bare) == (split > 0 or architecture == "bert")
            assert torch.equal(backbone.tail(trunk, batch, split), whole)
        delta = attachment.delta()
    assert delta.split == split
    assert [spec.shape for spec in delta.tensors] == [(5, (LAYERS - split) * 2 * 32)]
    with PrefixTuning().restore(backbone, delta.files) as restored, torch.no_grad():
        assert restored.split == split
        assert torch.equal(backbone.forward(batch), whole)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_key_and_value_is_trained(backbone_of: Backbones, architecture: str) -> None:
    backbone = backbone_of(architecture)
    batch = backbone.collate(backbone.encode(CORPUS))
    with PrefixTuning().attach(backbone, EXACT, seed=0) as attachment:
        parameters = attachment.parameters()
        hidden = backbone.tail(backbone.trunk(batch, 0).detach(), batch, 0)
        backbone.pool(hidden, batch.attention_mask).square().sum().backward()
        gradients = [parameter.grad for parameter in parameters]
    assert len(gradients) == 2 * LAYERS
    for parameter, gradient in zip(parameters, gradients, strict=True):
        assert parameter.dtype == torch.float32
        assert gradient is not None
        assert gradient.abs().amax(dim=(0, 2)).min() > 0


def test_half_precision_storage_rounds_and_halves(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    stored = {}
    for store in ("float32", "float16"):
        settings = PrefixTuningSettings(length=5, store=store)
        with PrefixTuning().attach(backbone, settings, seed=0) as attachment:
            disturb(attachment)
            delta = attachment.delta()
        (spec,) = delta.tensors
        stored[store] = load(delta.files[TENSORS])["prompt_embeddings"]
        assert (spec.dtype, str(stored[store].dtype)) == (store, f"torch.{store}")
    assert torch.equal(stored["float16"], stored["float32"].half())


def test_the_seed_decides_the_bytes_and_the_global_generator_has_no_part(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")

    def files(seed: int) -> dict[str, bytes]:
        torch.rand(seed + 1)
        before = torch.random.get_rng_state()
        with PrefixTuning().attach(backbone, EXACT, seed=seed) as attachment:
            assert torch.equal(torch.random.get_rng_state(), before)
            return attachment.delta().files

    assert files(0) == files(0)
    assert files(0) != files(1)


def test_settings_that_do_not_fit_are_all_listed(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    before = features(backbone)
    with pytest.raises(SettingsInvalid) as caught:
        PrefixTuning().attach(backbone, PrefixTuningSettings(length=100, layers=9), seed=0)
    assert "prefix_tuning.length: is 100, but the base reads 64 tokens at most" in str(caught.value)
    assert "prefix_tuning.layers: is 9, but the base has 3 layers" in str(caught.value)
    assert torch.equal(features(backbone), before)


def test_a_base_whose_attention_takes_no_prefix_is_refused(tmp_path: Path) -> None:
    backbone = open_backbone(save_model(tmp_path, "t5"))
    with pytest.raises(ModelUnsupported, match="cannot be given a prefix"):
        PrefixTuning().attach(backbone, EXACT, seed=0)


class TestDamagedDeltas:
    @pytest.fixture
    def files(self, backbone_of: Backbones) -> dict[str, bytes]:
        with PrefixTuning().attach(backbone_of("bert"), EXACT, seed=0) as attachment:
            return attachment.delta().files

    def refuse(self, backbone: Backbone, files: dict[str, bytes]) -> str:
        before = features(backbone)
        with pytest.raises(ArtifactInvalid) as caught:
            PrefixTuning().restore(backbone, files)
        assert torch.equal(features(backbone), before)
        return str(caught.value)

    def test_missing_and_left_over_tensors_are_named(self, backbone_of: Backbones, files: dict[str, bytes]) -> None:
        told = self.refuse(backbone_of("bert"), {**files, TENSORS: save({"other": torch.zeros(3)})})
        assert "prompt_embeddings: is missing" in told
        assert "other: is left over" in told

    def test_another_shape_is_told(self, backbone_of: Backbones, files: dict[str, bytes]) -> None:
        tensors = {"prompt_embeddings": torch.zeros(4, 192)}
        told = self.refuse(backbone_of("bert"), {**files, TENSORS: save(tensors)})
        assert "has the shape [4, 192], expected is [5, 192]" in told

    def test_the_prefix_of_another_base_is_refused(self, backbone_of: Backbones, files: dict[str, bytes]) -> None:
        told = self.refuse(backbone_of("llama"), files)
        assert "num_attention_heads: is 4, expected is 2" in told
        assert "token_dim: is 32, expected is 16" in told

    @pytest.mark.parametrize(
        ("field", "value", "reason"),
        [
            ("peft_type", "LORA", "is not of a prefix"),
            ("num_layers", 4, "num_layers: is 4, expected is a number from 1 to 3"),
            ("num_layers", None, "num_layers: is null"),
            ("num_virtual_tokens", 0, "num_virtual_tokens: is 0"),
            ("num_virtual_tokens", True, "num_virtual_tokens: is true"),
            ("num_virtual_tokens", [5], "num_virtual_tokens: is [5]"),
            ("num_transformer_submodules", 2, "num_transformer_submodules: is not 1"),
            ("modules_to_save", ["classifier"], 'modules_to_save: is not supported: ["classifier"]'),
            ("something_new", {"x": 1}, "something_new: is not supported"),
        ],
    )
    def test_what_is_not_understood_is_refused(
        self, backbone_of: Backbones, files: dict[str, bytes], field: str, value: Any, reason: str
    ) -> None:
        config = json.loads(files[CONFIG]) | {field: value}
        assert reason in self.refuse(backbone_of("bert"), {**files, CONFIG: json.dumps(config).encode()})
