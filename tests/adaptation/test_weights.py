from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from graftwork.adaptation import STRATEGIES
from graftwork.adaptation.full import Full, FullSettings
from graftwork.adaptation.inference import adapted_features
from graftwork.adaptation.parameters import first_layers, parameter_places
from graftwork.adaptation.partial import Partial, PartialSettings
from graftwork.adaptation.weights import WeightsAttachment
from graftwork.backbones.backbone import Backbone
from graftwork.errors import ArtifactInvalid, SettingsInvalid
from graftwork.training.config import TrainingConfig
from tests.adaptation.decoded import decode_onto
from tests.adaptation.test_inference import artifact_of
from tests.backbones.tiny import ARCHITECTURES, CORPUS, LAYERS

Backbones = Callable[..., Backbone]
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


def attach(backbone: Backbone, strategy: str, **settings: Any) -> WeightsAttachment:
    found = STRATEGIES[strategy]
    attachment = found.attach(backbone, found.settings_type(**settings), seed=0)
    assert isinstance(attachment, WeightsAttachment)
    return attachment


def disturb(attachment: WeightsAttachment, size: float = 0.05) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in attachment.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * size)


def state(backbone: Backbone) -> dict[str, tuple[int, Tensor]]:
    return {name: (id(p), p.detach().clone()) for name, p in backbone.model.named_parameters()}


def assert_untouched(backbone: Backbone, before: dict[str, tuple[int, Tensor]]) -> None:
    after = state(backbone)
    assert after.keys() == before.keys()
    for name, (identity, value) in before.items():
        assert after[name][0] == identity
        assert torch.equal(after[name][1], value)
    assert not any(p.requires_grad for p in backbone.model.parameters())
    assert not backbone.model._forward_pre_hooks


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("strategy", "split"), [("partial", LAYERS // 2), ("full", 0)])
def test_a_fresh_delta_changes_no_bit_and_a_disturbed_one_leaves_the_base_as_it_was(
    architecture: str, strategy: str, split: int, backbone_of: Backbones
) -> None:
    backbone = backbone_of(architecture)
    before, bare = state(backbone), backbone.embed(CORPUS)
    with attach(backbone, strategy, store="lossless") as attachment:
        assert attachment.split == split
        assert torch.equal(backbone.embed(CORPUS), bare)
        assert all(p.dtype == torch.float32 and p.requires_grad for p in attachment.parameters())
        disturb(attachment)
        tuned = backbone.embed(CORPUS)
        delta = attachment.delta()
    assert not torch.allclose(tuned, bare, atol=1e-3)
    assert torch.equal(backbone.embed(CORPUS), bare)
    assert_untouched(backbone, before)
    with STRATEGIES[strategy].restore(backbone, delta.files) as restored:
        assert torch.equal(backbone.embed(CORPUS), tuned)
        assert restored.split == split
        assert restored.delta().files == delta.files
    assert_untouched(backbone, before)


def test_it_can_be_put_in_place_where_gradients_are_off(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    with torch.inference_mode(), attach(backbone, "full") as attachment:
        assert -1 in attachment.depths()
        disturb(attachment)
        files = attachment.delta().files
    with torch.inference_mode(), Full().restore(backbone, files) as restored:
        assert restored.delta().files == files


def test_the_base_comes_back_after_a_failure_too(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    before = state(backbone)

    def fail() -> None:
        with attach(backbone, "full") as attachment:
            disturb(attachment)
            backbone.embed(CORPUS[:1])
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        fail()
    assert_untouched(backbone, before)


@pytest.mark.parametrize(
    ("architecture", "below", "top"),
    [
        ("bert", "embeddings.word_embeddings.weight", "encoder.layer.2.output.dense.weight"),
        ("gpt2", "wte.weight", "ln_f.weight"),
        ("llama", "embed_tokens.weight", "norm.weight"),
        ("deberta-v2", "embeddings.word_embeddings.weight", "encoder.layer.2.output.dense.weight"),
    ],
)
def test_where_parameters_first_act(architecture: str, below: str, top: str, backbone_of: Backbones) -> None:
    backbone = backbone_of(architecture)
    depths = first_layers(backbone, parameter_places(backbone))
    assert depths[below] == -1
    assert depths[top] == LAYERS - 1
    assert not [name for name in depths if "pooler" in name]
    for index, layer in enumerate(backbone.layer_names):
        assert {depth for name, depth in depths.items() if name.startswith(f"{layer}.")} == {index}


def test_a_norm_above_the_layers_is_tuned_with_them_and_a_table_of_all_layers_is_not(backbone_of: Backbones) -> None:
    def tuned(architecture: str) -> set[str]:
        with attach(backbone_of(architecture), "partial", store="lossless", freeze_layers=1) as attachment:
            disturb(attachment)
            return {spec.name for spec in attachment.delta().tensors}

    assert "ln_f.weight.value" in tuned("gpt2")
    assert "encoder.rel_embeddings.weight.value" not in tuned("deberta-v2")


def test_parameters_that_are_shared_are_tuned_once(backbone_of: Backbones) -> None:
    backbone = backbone_of("t5")
    shared = backbone.model.get_parameter("shared.weight")
    assert sum(shared is p for _, p in backbone.model.named_parameters(remove_duplicate=False)) == 2
    bare = backbone.embed(CORPUS)
    with attach(backbone, "full", store="lossless") as attachment:
        tables = [p for p in attachment.parameters() if p.shape == shared.shape]
        assert len(tables) == 1
        with torch.no_grad():
            tables[0].mul_(-2.0)
        assert not torch.allclose(backbone.embed(CORPUS), bare, atol=1e-3)
    assert torch.equal(backbone.embed(CORPUS), bare)


@pytest.mark.parametrize(
    ("settings", "split"),
    [
        ({}, 1),
        ({"freeze_until": 2}, 2),
        ({"freeze_until": "encoder.layer.2"}, 2),
        ({"freeze_layers": 0}, 0),
        ({"freeze_ratio": 0.67}, 2),
        ({"freeze_ratio": 0.1}, 0),
    ],
)
def test_ways_to_say_what_stays_frozen(settings: dict[str, Any], split: int, backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    with attach(backbone, "partial", **settings) as attachment:
        assert attachment.split == split
        assert sorted(set(attachment.depths())) == list(range(split, LAYERS))
        assert len(attachment.depths()) == len(attachment.parameters())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"freeze_until": "encoder.layer.7"}, "encoder.layer.0, encoder.layer.1, encoder.layer.2, or 0 to 2"),
        ({"freeze_until": -1}, "or 0 to 2"),
        ({"freeze_layers": 3}, "at most 2 layers"),
        ({"freeze_ratio": 0.95}, "at most 2 layers"),
    ],
)
def test_what_names_no_layer_or_freezes_all_is_refused(
    settings: dict[str, Any], told: str, backbone_of: Backbones
) -> None:
    backbone = backbone_of("bert")
    before = state(backbone)
    with pytest.raises(SettingsInvalid) as caught:
        attach(backbone, "partial", **settings)
    if "freeze_until" in settings and settings["freeze_until"] != -1:
        assert "did you mean encoder.layer." in caught.value.problems[0].what
    assert [problem.where for problem in caught.value.problems] == [f"partial.{next(iter(settings))}"]
    assert told in caught.value.remedy
    assert_untouched(backbone, before)


def test_ways_that_contradict_each_other_are_refused_together() -> None:
    with pytest.raises(SettingsInvalid) as caught:
        TrainingConfig.parse(
            strategy="partial",
            assignments=["partial.freeze_until=2", "partial.freeze_ratio=0.5", "full.store=gzip", "seed=-1"],
        )
    told = {problem.where: problem.what for problem in caught.value.problems}
    assert told.keys() == {"partial", "full.store", "seed"}
    assert "give one of freeze_until and freeze_ratio" in told["partial"]
    assert "'one-bit', 'float16' or 'lossless'" in told["full.store"]


def test_a_name_or_an_index_survives_the_command_line() -> None:
    by_name = TrainingConfig.parse(strategy="partial", assignments=["partial.freeze_until=encoder.layer.2"])
    by_index = TrainingConfig.parse(strategy="partial", assignments=["partial.freeze_until=2"])
    assert by_name.partial.freeze_until == "encoder.layer.2"
    assert by_index.partial.freeze_until == 2
    assert TrainingConfig.model_validate(by_name.model_dump(mode="json")) == by_name


@pytest.mark.parametrize("strategy", ["partial", "full"])
@pytest.mark.parametrize("store", ["one-bit", "float16"])
def test_answers_of_what_is_stored_are_those_of_weights_decoded_by_hand(
    strategy: str, store: str, backbone_of: Backbones
) -> None:
    backbone = backbone_of("bert")
    with attach(backbone, strategy, store=store) as attachment:
        disturb(attachment)
        delta = attachment.delta()
        compressed = backbone.embed(CORPUS, max_length=16)
    artifact = artifact_of(backbone, strategy, delta)
    found = adapted_features(backbone, artifact, CORPUS)
    assert torch.equal(found, compressed)
    naive = backbone_of("bert")
    decode_onto(naive.model, load(delta.files[TENSORS]))
    torch.testing.assert_close(found, naive.embed(CORPUS, max_length=16), rtol=1e-5, atol=1e-6)


def test_nothing_tuned_stores_nothing(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    with attach(backbone, "full") as attachment:
        delta = attachment.delta()
    assert (delta.split, delta.tensors, delta.files) == (LAYERS, (), {})
    bare = backbone.embed(CORPUS)
    with Full().restore(backbone, delta.files) as restored:
        assert restored.split == LAYERS
        assert torch.equal(backbone.embed(CORPUS), bare)


def test_of_the_words_only_those_that_occurred_are_stored(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    batch = backbone.collate(backbone.encode(CORPUS[:2]))
    with attach(backbone, "full") as attachment:
        optimizer = torch.optim.AdamW(attachment.parameters(), lr=1e-2, weight_decay=0.0)
        backbone.pool(backbone.forward(batch), batch.attention_mask).pow(2).sum().backward()
        optimizer.step()
        stored = load(attachment.delta().files[TENSORS])
    words = {token for text in backbone.encode(CORPUS[:2]) for token in text}
    assert set(stored["embeddings.word_embeddings.weight.rows"].tolist()) == words
    tokens = max(map(len, backbone.encode(CORPUS[:2])))
    assert stored["embeddings.position_embeddings.weight.rows"].tolist() == list(range(tokens))


@pytest.mark.parametrize("strategy", ["partial", "full"])
def test_training_is_that_of_plain_pytorch_on_the_whole_model(strategy: str, backbone_of: Backbones) -> None:
    backbone, plain = backbone_of("bert"), backbone_of("bert")
    ids = backbone.encode(CORPUS)
    labels = torch.tensor([0, 1, 0, 1, 1])
    weight = torch.randn(2, backbone.width, generator=torch.Generator().manual_seed(0))
    batch = backbone.collate(ids)
    split = LAYERS // 2

    with attach(backbone, strategy, store="lossless") as attachment:
        parameters = attachment.parameters()
        optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.01)
        for _ in range(3):
            if strategy == "partial":
                with torch.no_grad():
                    hidden = backbone.trunk(batch, attachment.split)
                top = backbone.tail(hidden, batch, attachment.split)
            else:
                top = backbone.forward(batch)
            vectors = backbone.pool(top, batch.attention_mask)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(vectors @ weight.T, labels).backward()
            optimizer.step()
        ours = {spec.name.removesuffix(".value"): None for spec in attachment.delta().tensors}
        stored = load(attachment.delta().files[TENSORS])

    tuned = {
        name: parameter
        for name, parameter in plain.model.named_parameters()
        if "pooler" not in name
        and (strategy == "full" or any(name.startswith(f"encoder.layer.{index}.") for index in range(split, LAYERS)))
    }
    for parameter in tuned.values():
        parameter.requires_grad_(True)
    reference = torch.optim.AdamW(tuned.values(), lr=1e-2, weight_decay=0.01)
    for _ in range(3):
        model: Any = plain.model
        hidden = model(input_ids=batch.arguments["input_ids"], attention_mask=batch.attention_mask).last_hidden_state
        mask = batch.attention_mask[..., None].float()
        vectors = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        reference.zero_grad()
        torch.nn.functional.cross_entropy(vectors @ weight.T, labels).backward()
        reference.step()
    assert ours.keys() == tuned.keys()
    for name, parameter in tuned.items():
        torch.testing.assert_close(stored[f"{name}.value"], parameter.detach(), rtol=1e-4, atol=1e-5)


def test_a_base_in_bfloat16_is_tuned_in_float32(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert", dtype="bfloat16")
    bare = backbone.embed(CORPUS)
    with attach(backbone, "full", store="lossless") as attachment:
        assert torch.equal(backbone.embed(CORPUS), bare)
        batch = backbone.collate(backbone.encode(CORPUS))
        backbone.forward(batch).float().pow(2).mean().backward()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in attachment.parameters())
        disturb(attachment)
        tuned = backbone.embed(CORPUS)
        delta = attachment.delta()
    with Full().restore(backbone, delta.files):
        assert torch.equal(backbone.embed(CORPUS), tuned)
    assert torch.equal(backbone.embed(CORPUS), bare)


QUERY = "encoder.layer.1.attention.self.query.weight"
Files = tuple[dict[str, Any], dict[str, Tensor]]


def without(name: str) -> Callable[[dict[str, Any], dict[str, Tensor]], object]:
    return lambda _config, tensors: tensors.pop(name)


def replaced(name: str, tensor: Tensor) -> Callable[[dict[str, Any], dict[str, Tensor]], object]:
    return lambda _config, tensors: tensors.update({name: tensor})


def told(**fields: Any) -> Callable[[dict[str, Any], dict[str, Tensor]], object]:
    return lambda config, _tensors: config.update(fields)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (without(f"{QUERY}.scale"), "scale is missing"),
        (replaced(f"{QUERY}.value", torch.zeros(32, 32)), "value is left over"),
        (replaced(f"{QUERY}.sign", torch.zeros(32, 5, dtype=torch.uint8)), r"sign has the shape \[32, 5\]"),
        (replaced(f"{QUERY}.scale", torch.zeros(32, dtype=torch.float16)), "scale is F16 instead of F32"),
        (replaced("encoder.layer.9.x.sign", torch.zeros(2, 2, dtype=torch.uint8)), "no parameter of the base"),
        (replaced("sign", torch.zeros(2, 2, dtype=torch.uint8)), "no parameter of the base"),
        (replaced("encoder.layer.0.output.dense.bias.difference", torch.zeros(32).half()), "in a layer below 1"),
        (replaced("embeddings.LayerNorm.bias.difference", torch.zeros(32).half()), "below the first tuned layer"),
        (replaced("pooler.dense.bias.difference", torch.zeros(32).half()), "changes nothing"),
        (replaced(f"{QUERY}.rows", torch.arange(32, dtype=torch.int32)), r"rows has the shape \[32\]"),
        (told(encoding="float16"), "difference is missing"),
        (told(encoding="zip"), "encoding: is not understood"),
        (told(split=3), "split: is not understood"),
        (told(format=2), "format: is not understood"),
        (told(surprise=1), "surprise: is not understood"),
    ],
)
def test_files_that_do_not_fit_are_refused_and_leave_the_base_clean(
    spoil: Callable[[dict[str, Any], dict[str, Tensor]], object], complaint: str, backbone_of: Backbones
) -> None:
    backbone = backbone_of("bert")
    before = state(backbone)
    with attach(backbone, "partial") as attachment:
        disturb(attachment)
        files = attachment.delta().files
    config, tensors = json.loads(files[CONFIG]), load(files[TENSORS])
    spoil(config, tensors)
    with pytest.raises(ArtifactInvalid, match=complaint):
        Partial().restore(backbone, {CONFIG: json.dumps(config).encode(), TENSORS: save(tensors)})
    assert_untouched(backbone, before)


@pytest.mark.parametrize("rows", [[-1, 2], [2, 2], [3, 1], [0, 400]])
def test_rows_that_are_not_rising_places_of_the_table_are_refused(rows: list[int], backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    config = {"peft_type": "GRAFTWORK_WEIGHTS", "format": 1, "encoding": "one-bit", "split": 0}
    name = "embeddings.word_embeddings.weight"
    tensors = {
        f"{name}.rows": torch.tensor(rows, dtype=torch.int32),
        f"{name}.sign": torch.zeros(2, 4, dtype=torch.uint8),
        f"{name}.scale": torch.ones(2),
    }
    with pytest.raises(ArtifactInvalid, match="are not rising places among 320 rows"):
        Full().restore(backbone, {CONFIG: json.dumps(config).encode(), TENSORS: save(tensors)})


def test_defaults() -> None:
    assert PartialSettings().store == FullSettings().store == "one-bit"
