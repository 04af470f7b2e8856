"""What a model folder is, and everything that can be wrong with one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from graftwork.backbones.inspect import inspect_model
from graftwork.errors import ModelError, ModelUnreadable, ModelUnsupported, SettingsInvalid
from graftwork.registry.manifest import Pooling
from tests.backbones.tiny import LAYERS, WIDTH, byte_pairs, config_of, save_model

Saved = Callable[[str], Path]
WEIGHTS = "model.safetensors"


@pytest.fixture
def copy(saved: Saved, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved("bert"), tmp_path / "copy"))


def put(file: Path, content: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))


def change(file: Path, **changes: Any) -> None:
    put(file, json.loads(file.read_text()) | changes)


def change_weights(folder: Path, alter: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    alter(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def refusal(folder: Path, kind: type[ModelError], **overrides: Any) -> dict[str, str]:
    with pytest.raises(kind) as caught:
        inspect_model(folder, **overrides)
    assert type(caught.value) is kind
    assert caught.value.remedy
    return {problem.where: problem.what for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("architecture", "kind", "pooling", "below", "max_length"),
    [
        ("bert", "encoder-only", "mean", ("embeddings",), 64),
        ("roberta", "encoder-only", "mean", ("embeddings",), 64),
        ("distilbert", "encoder-only", "mean", ("embeddings",), 64),
        ("modernbert", "encoder-only", "mean", ("embeddings",), 64),
        ("gpt2", "decoder-only", "last", ("wte", "wpe"), 64),
        ("llama", "decoder-only", "last", ("embed_tokens",), 64),
        ("bart", "encoder-decoder", "mean", ("embed_tokens", "embed_positions"), 64),
    ],
)
def test_what_is_read_from_a_model(
    saved: Saved, architecture: str, kind: str, pooling: str, below: tuple[str, ...], max_length: int
) -> None:
    found = inspect_model(saved(architecture))
    facts = found.metadata
    assert (facts.architecture, facts.domain, facts.model_type) == (kind, "nlp", architecture)
    assert (facts.layers, facts.hidden_size, facts.max_length, facts.dtype) == (LAYERS, WIDTH, max_length, "float32")
    assert facts.pooling == Pooling(mode=pooling)
    assert facts.freezable_layers[: len(below)] == below
    assert len(facts.freezable_layers) == len(below) + LAYERS
    assert facts.vocabulary is not None
    assert facts.learning_rate_range is not None
    assert facts.batch_size == 32
    assert facts.recommended_tasks[0] == "text-classification"
    assert len(found.fingerprint) == len(found.tokenizer) == 64
    assert inspect_model(saved(architecture)) == found


def test_parameters_are_counted_without_what_was_never_trained(copy: Path) -> None:
    with_pooler = inspect_model(copy).metadata.parameters
    assert with_pooler == sum(tensor.numel() for tensor in load_file(copy / WEIGHTS).values())
    change_weights(copy, lambda t: [t.pop("pooler.dense.weight"), t.pop("pooler.dense.bias")])
    assert inspect_model(copy).metadata.parameters == with_pooler - WIDTH * (WIDTH + 1)


@pytest.mark.parametrize(
    ("architecture", "head"),
    [
        ("bert", "AutoModelForMaskedLM"),
        ("roberta", "AutoModelForSequenceClassification"),
        ("distilbert", "AutoModelForMaskedLM"),
        ("modernbert", "AutoModelForMaskedLM"),
        ("gpt2", "AutoModelForCausalLM"),
        ("llama", "AutoModelForCausalLM"),
        ("t5", "AutoModelForSeq2SeqLM"),
        ("t5", "AutoModelForTextEncoding"),
        ("bart", "AutoModelForSeq2SeqLM"),
    ],
)
def test_heads_may_be_left_over(tmp_path: Path, architecture: str, head: str) -> None:
    assert inspect_model(save_model(tmp_path, architecture, kind=head)).metadata.model_type == architecture


@pytest.mark.parametrize(("architecture", "objective"), [("bert", "masked"), ("gpt2", "causal")])
def test_the_objective_is_told_by_the_head(tmp_path: Path, architecture: str, objective: str) -> None:
    kind = {"masked": "AutoModelForMaskedLM", "causal": "AutoModelForCausalLM"}[objective]
    facts = inspect_model(save_model(tmp_path, architecture, kind=kind)).metadata
    assert facts.objective == f"{objective}-language-modelling"


@pytest.mark.parametrize(("architecture", "domain", "positions"), [("vit", "vision", 17), ("whisper", "speech", 20)])
def test_models_for_images_and_sound_are_recognised(
    saved: Saved, tmp_path: Path, architecture: str, domain: str, positions: int
) -> None:
    folder = Path(shutil.copytree(saved(architecture), tmp_path / "model"))
    assert "tokenizer.json" in refusal(folder, ModelUnreadable)
    settings = {"size": 32, "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 8}
    put(folder / "preprocessor_config.json", settings | {"chunk_length": 1, "hop_length": 400})
    facts = inspect_model(folder).metadata
    assert (facts.domain, facts.layers, facts.hidden_size, facts.max_length) == (domain, LAYERS, WIDTH, positions)
    assert len(facts.freezable_layers) > LAYERS


def test_every_mistake_in_the_files_is_told_at_once(copy: Path) -> None:
    change(copy / "config.json", auto_map={"AutoModel": "modeling.Custom"}, quantization_config={"bits": 4})
    for file in copy.glob("tokenizer*"):
        file.unlink()
    (copy / "special_tokens_map.json").write_text("{broken")
    content = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(content[:-100])
    with pytest.raises(ModelUnreadable) as caught:
        inspect_model(copy)
    told = [str(problem) for problem in caught.value.problems]
    assert len(told) == 5
    for part in (
        "is not JSON",
        "tokenizer.json: is missing",
        "was cut off",
        "(auto_map), which is never run",
        "quantised",
    ):
        assert any(part in line for line in told), part
    assert f"tells of {len(content)} bytes, the file has {len(content) - 100}" in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "where", "what"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json", "is missing"),
        (lambda f: put(f / "config.json", {"hidden_size": 3}), "config.json", "names no model_type"),
        (lambda f: (f / "config.json").write_text("nope"), "config.json", "is not JSON"),
        (lambda f: (f / WEIGHTS).unlink(), WEIGHTS, "there are no weights"),
        (lambda f: (f / WEIGHTS).rename(f / "pytorch_model.bin"), "pytorch_model.bin", "save_pretrained(folder)"),
        (lambda f: (f / WEIGHTS).write_bytes(b"\x80\x02}q\x00."), WEIGHTS, "not a safetensors file"),
        (
            lambda f: change_weights(f, lambda t: t["encoder.layer.1.output.dense.bias"].fill_(float("nan"))),
            "encoder.layer.1.output.dense.bias",
            "holds NaN or infinity",
        ),
        (
            lambda f: change_weights(f, lambda t: t.pop("encoder.layer.1.output.dense.bias")),
            "encoder.layer.1.output.dense.bias",
            "is missing",
        ),
        (
            lambda f: change(f / "config.json", num_hidden_layers=2),
            "encoder.layer.2.output.dense.bias",
            "is left over",
        ),
        (
            lambda f: change(f / "config.json", vocab_size=321),
            "embeddings.word_embeddings.weight",
            "has shape (320, 32) in the file, the configuration asks for (321, 32)",
        ),
    ],
)
def test_each_way_to_be_unsound(copy: Path, damage: Callable[[Path], object], where: str, what: str) -> None:
    damage(copy)
    assert what in refusal(copy, ModelUnreadable)[where]


def test_a_long_list_of_missing_tensors_is_cut(copy: Path) -> None:
    change(copy / "config.json", num_hidden_layers=12)
    with pytest.raises(ModelUnreadable) as caught:
        inspect_model(copy)
    assert len(caught.value.problems) == 21
    assert "144 tensors" in caught.value.message
    assert "and 124 more" in str(caught.value)


def test_weights_with_the_prefix_of_a_head_are_as_strict(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "bert", kind="AutoModelForMaskedLM")
    change_weights(folder, lambda t: t.pop("bert.encoder.layer.0.output.dense.bias"))
    assert refusal(folder, ModelUnreadable) == {"encoder.layer.0.output.dense.bias": "is missing"}
    change(folder / "config.json", num_hidden_layers=2)
    assert "bert.encoder.layer.2.output.dense.bias" in refusal(folder, ModelUnreadable)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"auto_map": {"AutoModel": "m.M"}}, "code that comes with the model"),
        ({"quantization_config": {"bits": 8}}, "quantised"),
        ({"model_type": "neverheard"}, "neverheard"),
    ],
)
def test_each_way_to_be_unusable(copy: Path, changes: dict[str, Any], told: str) -> None:
    change(copy / "config.json", **changes)
    assert told in refusal(copy, ModelUnsupported)["config.json"]


def test_weights_in_other_number_formats_are_refused(copy: Path) -> None:
    change_weights(copy, lambda t: t.update({name: tensor.double() for name, tensor in t.items()}))
    assert "are stored as F64" in refusal(copy, ModelUnsupported)["weights"]


def test_a_tokenizer_that_is_not_the_models_is_refused(copy: Path) -> None:
    byte_pairs(template=True, pad=True).save_pretrained(copy)
    shrink = config_of("bert", vocab_size=100)
    change(copy / "config.json", vocab_size=shrink.vocab_size)
    name = "embeddings.word_embeddings.weight"
    change_weights(copy, lambda t: t.update({name: t[name][:100].clone()}))
    assert "has ids up to 267, the model has 100 embeddings" in refusal(copy, ModelUnreadable)["tokenizer"]


def test_a_broken_tokenizer_and_broken_weights_are_told_together(copy: Path) -> None:
    put(copy / "tokenizer.json", {"model": 3})
    change_weights(copy, lambda t: t.pop("encoder.layer.1.output.dense.bias"))
    told = refusal(copy, ModelUnreadable)
    assert "encoder.layer.1.output.dense.bias" in told
    assert len(told) == 2


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(ModelUnreadable, match="there is no model folder"):
        inspect_model(tmp_path / "nowhere")


def sentence_files(folder: Path, pooling: dict[str, Any], *modules: str) -> None:
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), *((f"2_{name}", name) for name in modules)]
    put(
        folder / "modules.json",
        [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds],
    )
    put(folder / "1_Pooling" / "config.json", pooling)


@pytest.mark.parametrize(
    ("pooling", "modules", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, ("Normalize",), ("mean", True)),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, (), ("cls", False)),
        ({"pooling_mode_lasttoken": True}, ("Normalize",), ("last", True)),
        ({"pooling_mode": "cls"}, (), ("cls", False)),
    ],
)
def test_a_sentence_encoder_is_pooled_as_it_says(
    copy: Path, pooling: dict[str, Any], modules: tuple[str, ...], expected: tuple[Any, bool]
) -> None:
    sentence_files(copy, pooling, *modules)
    facts = inspect_model(copy).metadata
    assert facts.pooling == Pooling(mode=expected[0], normalize=expected[1])
    assert facts.objective == "sentence-similarity"


def test_length_and_prompt_of_a_sentence_encoder(copy: Path) -> None:
    put(copy / "sentence_bert_config.json", {"max_seq_length": 48})
    prompts = {"query": "query: ", "passage": "passage: "}
    put(copy / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": "query"})
    facts = inspect_model(copy).metadata
    assert (facts.max_length, facts.prompt) == (48, "query: ")
    put(copy / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": None})
    assert inspect_model(copy).metadata.prompt == ""


@pytest.mark.parametrize(
    ("pooling", "modules", "told"),
    [
        ({"pooling_mode_max_tokens": True}, (), "pooling by max_tokens cannot be followed"),
        (
            {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
            (),
            "pooling by cls_token with mean_tokens",
        ),
        ({"pooling_mode_mean_tokens": True}, ("Dense",), "a module of kind 'Dense' cannot be followed"),
    ],
)
def test_pooling_that_cannot_be_followed_is_refused_unless_another_is_given(
    copy: Path, pooling: dict[str, Any], modules: tuple[str, ...], told: str
) -> None:
    sentence_files(copy, pooling, *modules)
    assert any(told in what for what in refusal(copy, ModelUnsupported).values())
    assert inspect_model(copy, pooling="mean").metadata.pooling.mode == "mean"


def test_facts_can_be_given_and_win(copy: Path) -> None:
    given = {"prompt": "query: ", "license": "mit", "max_length": 32, "languages": ["en", "de"], "description": None}
    plain, told = inspect_model(copy), inspect_model(copy, **given, pooling="cls", normalize=True)
    assert (told.metadata.prompt, told.metadata.license, told.metadata.max_length) == ("query: ", "mit", 32)
    assert told.metadata.languages == ("en", "de")
    assert told.metadata.pooling == Pooling(mode="cls", normalize=True)
    assert told.fingerprint != plain.fingerprint
    assert told.tokenizer == plain.tokenizer
    assert inspect_model(copy, license="mit").fingerprint == plain.fingerprint


def test_of_the_pooling_a_part_may_be_given(copy: Path) -> None:
    sentence_files(copy, {"pooling_mode_cls_token": True})

    def pooled(**given: Any) -> Pooling:
        return inspect_model(copy, **given).metadata.pooling

    assert pooled(pooling={"normalize": True}) == pooled(normalize=True) == Pooling(mode="cls", normalize=True)
    assert pooled(pooling={"mode": "last"}) == pooled(pooling="last") == Pooling(mode="last")
    assert pooled(pooling=Pooling(mode="mean", normalize=True)) == Pooling(mode="mean", normalize=True)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"layers": 4, "colour": "red"}, "colour: there is no such field"),
        ({"layers": 4, "colour": "red"}, "layers: is read from the model itself"),
        ({"max_length": "long", "pooling": "median"}, "max_length"),
        ({"max_length": "long", "pooling": "median"}, "pooling.mode"),
        ({"max_length": 67}, "has 66 positions, so max_length cannot be 67"),
    ],
)
def test_facts_that_cannot_be_so_are_refused(saved: Saved, given: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        inspect_model(saved("bert"), **given)
    assert told in str(caught.value)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_stored_dtype_is_told(copy: Path, dtype: str) -> None:
    change_weights(copy, lambda t: t.update({n: x.to(getattr(torch, dtype)) for n, x in t.items()}))
    assert inspect_model(copy).metadata.dtype == dtype
