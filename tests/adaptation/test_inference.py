from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from graftwork.adaptation import STRATEGIES, strategy_of
from graftwork.adaptation.inference import adapted_features, head_logits, probabilities
from graftwork.adaptation.lora import Lora, LoraSettings
from graftwork.adaptation.strategy import Delta
from graftwork.backbones.backbone import Backbone
from graftwork.errors import ArtifactInvalid, BaseMismatch
from graftwork.registry.artifact import Artifact
from graftwork.registry.manifest import DatasetRecord, FileEntry, Manifest, Pooling
from tests.backbones.tiny import CORPUS

Backbones = Callable[..., Backbone]


def artifact_of(backbone: Backbone, strategy: str, delta: Delta, **changes: Any) -> Artifact:
    generator = torch.Generator().manual_seed(0)
    head = {
        "head.weight": torch.randn(3, backbone.width, generator=generator),
        "head.bias": torch.randn(3, generator=generator),
    }
    files = {"head.safetensors": save(head), **delta.files}
    fields: dict[str, Any] = {
        "base": backbone.fingerprint,
        "strategy": strategy,
        "labels": ("a", "b", "c"),
        "pooling": backbone.pooling,
        "max_length": 16,
        "tokenizer": backbone.tokenizer_digest,
        "split": delta.split,
        "layers": backbone.num_layers,
        "width": backbone.width,
        "dtype": "float32",
        "tensors": delta.tensors,
        "files": tuple(
            FileEntry(path=name, sha256=hashlib.sha256(content).hexdigest(), size=len(content))
            for name, content in sorted(files.items())
        ),
        "temperature": 2.0,
        "dataset": DatasetRecord(digest="0" * 64, rows=1, train_rows=1, validation_rows=0, test_rows=0),
        "seed": 0,
    }
    return Artifact(Manifest(**{**fields, **changes}), files)


@pytest.fixture
def bert(backbone_of: Backbones) -> Backbone:
    return backbone_of("bert")


def test_head_only_answers_are_the_head_on_bare_vectors(bert: Backbone) -> None:
    artifact = artifact_of(bert, "feature-extraction", Delta(bert.num_layers, (), {}))
    vectors = adapted_features(bert, artifact, CORPUS)
    assert torch.equal(vectors, bert.embed(CORPUS, max_length=16))
    logits = head_logits(artifact, vectors)
    assert logits.shape == (len(CORPUS), 3)
    answers = probabilities(logits, 2.0)
    wanted = torch.softmax(torch.from_numpy(logits) / 2.0, dim=1).numpy()
    np.testing.assert_allclose(answers, wanted, rtol=1e-12)


def test_lora_answers_run_through_the_delta(bert: Backbone) -> None:
    with Lora().attach(bert, LoraSettings(store="float32"), seed=0) as attachment:
        with torch.no_grad():
            for parameter in attachment.parameters():
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
        wanted = bert.embed(CORPUS, max_length=16)
        delta = attachment.delta()
    artifact = artifact_of(bert, "lora", delta)
    assert torch.equal(adapted_features(bert, artifact, CORPUS), wanted)
    assert not torch.allclose(bert.embed(CORPUS, max_length=16), wanted, atol=1e-3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("base", "1" * 64),
        ("tokenizer", "2" * 64),
        ("pooling", Pooling(mode="cls", normalize=True)),
        ("layers", 9),
        ("prompt", "query: "),
    ],
)
def test_an_adapter_of_another_base_is_refused(bert: Backbone, field: str, value: object) -> None:
    artifact = artifact_of(bert, "feature-extraction", Delta(bert.num_layers, (), {}), **{field: value})
    with pytest.raises(BaseMismatch) as caught:
        adapted_features(bert, artifact, CORPUS)
    assert [problem.where for problem in caught.value.problems] == [f"manifest.json, {field}"]


def test_all_differences_are_listed_at_once(bert: Backbone) -> None:
    artifact = artifact_of(
        bert, "feature-extraction", Delta(bert.num_layers, (), {}), base="1" * 64, tokenizer="2" * 64, layers=9
    )
    with pytest.raises(BaseMismatch) as caught:
        adapted_features(bert, artifact, CORPUS)
    assert [problem.where for problem in caught.value.problems] == [
        f"manifest.json, {name}" for name in ("base", "tokenizer", "layers")
    ]


def test_a_strategy_of_the_future_is_refused_by_name() -> None:
    with pytest.raises(ArtifactInvalid, match="'telepathy'"):
        strategy_of("telepathy")
    assert all(strategy_of(name) is strategy for name, strategy in STRATEGIES.items())


def test_a_delta_that_a_head_only_adapter_should_not_have_is_refused(bert: Backbone) -> None:
    with pytest.raises(ArtifactInvalid) as caught:
        STRATEGIES["feature-extraction"].restore(bert, {"adapter_model.safetensors": b"x"})
    assert [problem.where for problem in caught.value.problems] == ["adapter_model.safetensors"]
