"""What is exported answers as the adapter does, without us."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from graftwork.adaptation import STRATEGIES
from graftwork.adaptation.inference import adapted_features, head_logits, probabilities
from graftwork.backbones.backbone import Backbone, TokenBatch
from graftwork.errors import ModelUnsupported, SettingsInvalid
from graftwork.registry.artifact import HEAD, Artifact
from graftwork.registry.manifest import FileEntry, TaskRecord
from graftwork.training import onnx_export
from graftwork.training.config import TrainingConfig
from graftwork.training.export import export_merged
from graftwork.training.job import train
from graftwork.training.onnx_export import TokenClassifier, export_onnx
from tests.training.test_job import sentences

TEXTS = ["the fox jumps over the appeal", "markets closed"]


_PLAIN: dict[tuple[str, str], Artifact] = {}


def plain_adapter(backbone: Backbone, settings: TrainingConfig) -> Artifact:
    """A head alone, trained once for each base."""
    key = backbone.fingerprint, settings.model_dump_json()
    if key not in _PLAIN:
        _PLAIN[key] = train(backbone, sentences(0, 60), config=settings).artifact
    return _PLAIN[key]


def disturbed(backbone: Backbone, strategy: str, **settings_of_head: Any) -> Artifact:
    """An adapter of a strategy whose delta is noise."""
    settings = TrainingConfig.parse(strategy="feature-extraction", **settings_of_head)
    plain = plain_adapter(backbone, settings)
    generator = torch.Generator().manual_seed(0)
    attachment = STRATEGIES[strategy].attach(backbone, settings.settings_of(strategy), seed=0)
    with attachment, torch.no_grad():
        for parameter in attachment.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        delta = attachment.delta()
    files = {HEAD: plain.files[HEAD], **delta.files}
    entries = tuple(
        FileEntry(path=name, sha256=hashlib.sha256(content).hexdigest(), size=len(content))
        for name, content in sorted(files.items())
    )
    changed = {"strategy": strategy, "split": delta.split, "tensors": delta.tensors, "files": entries}
    return Artifact(plain.manifest.model_copy(update=changed), files)


@pytest.mark.parametrize(
    ("architecture", "strategy"),
    [("bert", "lora"), ("gpt2", "lora"), ("bert", "partial"), ("llama", "full"), ("bert", "feature-extraction")],
)
def test_the_model_alone_gives_the_adapters_vectors(
    backbone_of: Callable[..., Backbone],
    saved: Callable[[str], Path],
    tmp_path: Path,
    architecture: str,
    strategy: str,
) -> None:
    backbone = backbone_of(architecture)
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    artifact = disturbed(backbone, strategy)
    names = export_merged(backbone, artifact, saved(architecture), tmp_path)
    assert {"config.json", "model.safetensors", "tokenizer.json", "head.safetensors", "manifest.json"} <= set(names)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.model.state_dict().items())
    model = AutoModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert AutoTokenizer.from_pretrained(tmp_path)(TEXTS)["input_ids"] == backbone.encode(TEXTS)
    batch = backbone.collate(backbone.encode(TEXTS))
    with torch.no_grad():
        hidden = model(input_ids=batch.arguments["input_ids"], attention_mask=batch.attention_mask).last_hidden_state
    wanted = adapted_features(backbone, artifact, TEXTS)
    torch.testing.assert_close(backbone.pool(hidden, batch.attention_mask), wanted, atol=1e-5, rtol=1e-4)
    bare = backbone.embed(TEXTS)
    assert torch.allclose(wanted, bare, atol=1e-4) == (strategy == "feature-extraction")


def test_a_prefix_is_no_change_of_weights(
    backbone_of: Callable[..., Backbone], saved: Callable[[str], Path], tmp_path: Path
) -> None:
    backbone = backbone_of("bert")
    artifact = disturbed(backbone, "prefix-tuning")
    with pytest.raises(SettingsInvalid, match="nothing to merge"):
        export_merged(backbone, artifact, saved("bert"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def by_its_own_page(page: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What the code of an exported page answers, run in the page's folder as a reader would."""
    monkeypatch.chdir(page.parent)
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    answers: list[tuple[str, Any]] = names["classify"](texts)
    return answers


def check_answers(answers: list[tuple[str, Any]], artifact: Artifact, features: torch.Tensor) -> None:
    wanted = probabilities(head_logits(artifact, features), artifact.manifest.temperature)
    assert [label for label, _ in answers] == [artifact.manifest.labels[row] for row in wanted.argmax(axis=1)]
    np.testing.assert_allclose(np.stack([row for _, row in answers]), wanted, atol=1e-5)


MLP = {"feature_extraction": {"head": "mlp"}}
LONG = "the quick brown fox jumps over the lazy dog and wonderful weather today " * 4


@pytest.mark.parametrize(
    ("architecture", "strategy", "options"),
    [
        ("bert", "feature-extraction", MLP),
        ("bert", "lora", {"pooling": "cls", "normalize": True}),
        ("gpt2", "lora", {"prompt": "query: "}),
        ("bert", "partial", {}),
        ("llama", "full", {}),
        ("bert", "prefix-tuning", {}),
        ("gpt2", "prefix-tuning", {}),
    ],
)
def test_onnx_runtime_gives_the_adapters_probabilities(
    backbone_of: Callable[..., Backbone],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    architecture: str,
    strategy: str,
    options: dict[str, Any],
) -> None:
    base = {name: value for name, value in options.items() if name != "feature_extraction"}
    backbone = backbone_of(architecture, **base)
    artifact = disturbed(backbone, strategy, **(options if options is MLP else {}))
    texts = [*TEXTS, LONG, ""]
    features = adapted_features(backbone, artifact, texts)
    names = export_onnx(backbone, artifact, tmp_path)
    assert names == ["README.md", "classifier.json", "manifest.json", "model.onnx", "tokenizer.json"]
    answers = by_its_own_page(tmp_path / "README.md", texts[: 3 + (architecture == "bert")], monkeypatch)
    check_answers(answers, artifact, features[: len(answers)])
    assert capsys.readouterr().err == ""


def test_weights_too_many_for_one_message_lie_beside_the_graph(
    backbone_of: Callable[..., Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = backbone_of("bert")
    artifact = disturbed(backbone, "feature-extraction")
    features = adapted_features(backbone, artifact, TEXTS)
    names = export_onnx(backbone, artifact, tmp_path, one_file_bytes=10_000)
    assert {"model.onnx", "model.onnx.data"} <= set(names)
    assert "model.onnx.data" in (tmp_path / "README.md").read_text("utf-8")
    check_answers(by_its_own_page(tmp_path / "README.md", TEXTS, monkeypatch), artifact, features)


def test_an_adapter_of_several_tasks_is_no_model_of_its_own(
    backbone_of: Callable[..., Backbone], saved: Callable[[str], Path], tmp_path: Path
) -> None:
    backbone = backbone_of("bert")
    plain = disturbed(backbone, "feature-extraction")
    tasks = tuple(
        TaskRecord(name=name, labels=("a", "b"), temperature=1.0, dataset=plain.manifest.dataset)
        for name in ("mood", "spam")
    )
    several = Artifact(plain.manifest.model_copy(update={"tasks": tasks}), plain.files)
    with pytest.raises(ModelUnsupported, match=r"answers 2 tasks \(mood, spam\)"):
        export_onnx(backbone, several, tmp_path)
    with pytest.raises(ModelUnsupported, match=r"answers 2 tasks \(mood, spam\)"):
        export_merged(backbone, several, saved("bert"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_answers_otherwise_is_not_left_there(
    backbone_of: Callable[..., Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = backbone_of("bert")
    artifact = disturbed(backbone, "feature-extraction")
    traced = onnx_export._trace

    def forgetful(network: TokenClassifier, batch: TokenBatch, path: Path) -> None:
        network.head.bias.data += torch.arange(len(network.head.bias))
        traced(network, batch, path)
        network.head.bias.data -= torch.arange(len(network.head.bias))

    monkeypatch.setattr(onnx_export, "_trace", forgetful)
    with pytest.raises(ModelUnsupported, match="ONNX Runtime differs by") as refused:
        export_onnx(backbone, artifact, tmp_path)
    assert "--format transformers" in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("architecture", "strategy", "options"), [("gpt2", "lora", {}), ("bert", "feature-extraction", MLP)]
)
def test_the_page_beside_a_merged_model_answers_as_the_adapter(
    backbone_of: Callable[..., Backbone],
    saved: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    strategy: str,
    options: dict[str, Any],
) -> None:
    backbone = backbone_of(architecture)
    artifact = disturbed(backbone, strategy, **options)
    features = adapted_features(backbone, artifact, [*TEXTS, LONG])
    export_merged(backbone, artifact, saved(architecture), tmp_path)
    check_answers(by_its_own_page(tmp_path / "CLASSIFY.md", [*TEXTS, LONG], monkeypatch), artifact, features)
    assert AutoConfig.from_pretrained(tmp_path).id2label == dict(enumerate(artifact.manifest.labels))
