"""A merged model answers as the adapter does, without us."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from graftwork.adaptation import STRATEGIES
from graftwork.adaptation.inference import adapted_features
from graftwork.backbones.backbone import TextBackbone
from graftwork.errors import SettingsInvalid
from graftwork.registry.artifact import HEAD, Artifact
from graftwork.registry.manifest import FileEntry
from graftwork.training.config import TrainingConfig
from graftwork.training.export import export_merged
from graftwork.training.job import train
from tests.training.test_job import sentences

TEXTS = ["the fox jumps over the appeal", "markets closed"]


def disturbed(backbone: TextBackbone, strategy: str) -> Artifact:
    """An adapter of a strategy whose delta is noise."""
    settings = TrainingConfig(strategy="feature-extraction")
    plain = train(backbone, sentences(0, 60), config=settings).artifact
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
    backbone_of: Callable[..., TextBackbone],
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
    backbone_of: Callable[..., TextBackbone], saved: Callable[[str], Path], tmp_path: Path
) -> None:
    backbone = backbone_of("bert")
    artifact = disturbed(backbone, "prefix-tuning")
    with pytest.raises(SettingsInvalid, match="nothing to merge"):
        export_merged(backbone, artifact, saved("bert"), tmp_path)
    assert list(tmp_path.iterdir()) == []
