from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from safetensors.torch import load

from graftwork.adaptation import STRATEGIES
from graftwork.adaptation.strategy import Delta
from graftwork.adaptation.weights import WeightsAttachment
from graftwork.backbones.backbone import Backbone
from graftwork.evaluation.temperature import fit_temperature
from graftwork.training.activations import Activations
from graftwork.training.compression import Compressed, compress
from graftwork.training.config import TrainingConfig
from graftwork.training.job import train
from graftwork.training.progress import Silent
from tests.training.test_job import sentences
from tests.training.test_loop import TEXTS, Watching

Backbones = Callable[..., Backbone]
WEIGHT = torch.randn(2, 32, generator=torch.Generator().manual_seed(5))
BIAS = torch.zeros(2)


def compressed(
    backbone: Backbone, strategy: str = "full", *, seed: int = 0, store: str = "one-bit"
) -> tuple[Compressed, Delta, Watching]:
    """What comes of weights that were disturbed at random, as if they had been trained."""
    found = STRATEGIES[strategy]
    ids = backbone.encode(TEXTS)
    watcher = Watching()
    with found.attach(backbone, found.settings_type.model_validate({"store": store}), seed=0) as attachment:
        assert isinstance(attachment, WeightsAttachment)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in attachment.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.03)
        rows = Activations(backbone, ids, split=attachment.split)
        result = compress(
            attachment, weight=WEIGHT, bias=BIAS, train=rows, validation=rows, seed=seed, progress=watcher
        )
        return result, attachment.delta(), watcher


def divergence(logits: torch.Tensor, wanted: torch.Tensor) -> float:
    ours, theirs = logits.log_softmax(dim=1), wanted.log_softmax(dim=1)
    return float((theirs.exp() * (theirs - ours)).sum(dim=1).mean())


@pytest.mark.parametrize("strategy", ["partial", "full"])
def test_trained_scales_bring_the_answers_nearer_to_those_of_what_was_trained(
    strategy: str, backbone_of: Backbones
) -> None:
    backbone = backbone_of("bert")
    result, delta, watcher = compressed(backbone, strategy)
    before, after = divergence(result.untuned, result.trained), divergence(result.stored, result.trained)
    assert before > 1e-4
    assert after < 0.7 * before
    # The one pass over the 48 rows in batches of 32; the first is judged before anything was changed.
    assert len(watcher.metrics) == 2
    assert watcher.metrics[0]["divergence"] == pytest.approx(before, rel=0.5)
    with STRATEGIES[strategy].restore(backbone, delta.files):
        found = backbone.embed(TEXTS) @ WEIGHT.T + BIAS
    torch.testing.assert_close(found, result.stored, rtol=1e-4, atol=1e-4)


def test_the_seed_alone_decides_the_bytes(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    first, (again, other) = compressed(backbone)[1], (compressed(backbone, seed=seed)[1] for seed in (0, 1))
    assert first.files == again.files
    assert first.files != other.files
    signs = [load(delta.files["adapter_model.safetensors"]) for delta in (first, other)]
    assert all(torch.equal(signs[0][name], signs[1][name]) for name in signs[0] if name.endswith(".sign"))


def test_encodings_without_scales_are_judged_and_not_trained(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    lossless, _, watcher = compressed(backbone, store="lossless")
    assert torch.equal(lossless.stored, lossless.trained)
    assert watcher.metrics == []
    rounded, _, _ = compressed(backbone, store="float16")
    assert torch.equal(rounded.stored, rounded.untuned)
    assert 0 < (rounded.stored - rounded.trained).abs().max() < 1e-2


def test_the_cost_is_told_with_both_figures_of_each_stage() -> None:
    labels = np.array([0, 1, 1, 0])
    truth = torch.from_numpy(labels)
    right = torch.tensor([[4.0, 0.0], [0.0, 4.0], [0.0, 4.0], [0.0, 4.0]])
    wrong = right.flip(1)
    told = Compressed("one-bit", right, wrong, right).cost(labels)
    loss, worse = (
        torch.nn.functional.cross_entropy(logits / fit_temperature(logits.double().numpy(), labels), truth)
        for logits in (right, wrong)
    )
    assert told == (
        f"stored one-bit; on 4 validation rows accuracy 75.0% and log loss {loss:.3f} as trained, "
        f"accuracy 25.0% and log loss {worse:.3f} as signs, accuracy 75.0% and log loss {loss:.3f} as stored"
    )
    assert "as signs" not in Compressed("lossless", right, right, right).cost(labels)


def learnable(backbone: Backbone) -> Backbone:
    """The same with weights of the usual size, so that a few steps make it better and not chaotic."""
    with torch.no_grad():
        for module in backbone.model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.reset_parameters()
                continue
            for parameter in module.parameters(recurse=False):
                parameter.mul_(0.2)
    return backbone


@pytest.mark.parametrize("strategy", ["partial", "full"])
def test_a_run_tells_its_cost_and_gives_the_same_digest_again(strategy: str, backbone_of: Backbones) -> None:
    backbone = learnable(backbone_of("bert"))
    rows = sentences(0, 160)
    before = backbone.embed(rows.texts)
    settings = ("fine_tuning.epochs=2", "fine_tuning.batch_size=16", "fine_tuning.learning_rate=1e-3")
    # The strongest penalty alone: a probe that leaves something to be learned.
    config = TrainingConfig.parse(
        strategy=strategy, assignments=[*settings, "feature_extraction.penalties=[30]", "seed=1"]
    )
    first, again = (train(backbone, rows, config=config, progress=Silent()).artifact for _ in range(2))
    assert first.digest == again.digest
    manifest = first.manifest
    assert manifest.strategy == strategy
    assert manifest.split == (1 if strategy == "partial" else 0)
    assert manifest.decision.startswith(f"{STRATEGIES[strategy].title}, stored one-bit; on ")
    assert manifest.decision.endswith("as stored")
    assert manifest.metrics is not None
    assert {spec.dtype for spec in manifest.tensors} >= {"uint8", "float32", "float16"}
    assert ("embeddings.word_embeddings.weight.rows" in [s.name for s in manifest.tensors]) == (strategy == "full")
    assert manifest.dataset.validation_rows > 0
    assert torch.equal(backbone.embed(rows.texts), before)


def test_when_no_epoch_was_better_only_a_head_is_published(backbone_of: Backbones) -> None:
    config = TrainingConfig.parse(
        strategy="partial", assignments=["fine_tuning.learning_rate=1", "fine_tuning.epochs=1"]
    )
    rows = sentences(0, 160)
    manifest = train(backbone_of("bert"), rows, config=config).artifact.manifest
    assert "no epoch was better" in manifest.decision
    assert manifest.tensors == ()
    assert manifest.split == manifest.layers
    record = manifest.dataset
    assert record.train_rows + record.validation_rows + record.test_rows == record.rows
    assert record.validation_rows > 0


def test_embeddings_are_trained_where_the_strategy_says_so(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    found = STRATEGIES["full"]
    with found.attach(backbone, found.settings_type(), seed=0) as attachment:
        rows = Activations(backbone, backbone.encode(TEXTS), split=attachment.split)
        vectors = rows.vectors([0, 7], attachment)
        torch.testing.assert_close(vectors.detach(), backbone.embed([TEXTS[0], TEXTS[7]]), rtol=1e-5, atol=1e-5)
        (vectors @ WEIGHT.T).logsumexp(dim=1).sum().backward()
        assert -1 in attachment.depths()
        assert all(parameter.grad is not None for parameter in attachment.parameters())
