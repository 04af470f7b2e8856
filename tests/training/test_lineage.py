"""A child is trained on top of its parent, which stays as it is, and is measured against it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from graftwork.adaptation.chain import inherited
from graftwork.adaptation.inference import adapted_features, head_logits, probabilities
from graftwork.backbones.backbone import Backbone
from graftwork.data.dataset import Dataset
from graftwork.errors import NotBetter, SettingsInvalid
from graftwork.registry.artifact import HEAD, Artifact
from graftwork.serving.engine import Engine
from graftwork.training.config import TrainingConfig
from graftwork.training.job import train
from graftwork.training.lineage import head_of
from graftwork.training.probe import Linear, cross_entropy, fit_head, fit_probe
from tests.backbones.conftest import open_backbone
from tests.training.test_job import LORA, PREFIX, PROBE, sentences

SMALL = TrainingConfig.parse(
    strategy="lora",
    assignments=["fine_tuning.epochs=2", "fine_tuning.learning_rate=5e-3", "lora.rank=2", "lora.layers=1"],
)


@pytest.fixture(scope="module")
def bert(saved: Callable[[str], Path]) -> Backbone:
    backbone: Backbone = open_backbone(saved("bert"))
    return backbone


@pytest.fixture(scope="module")
def parent(bert: Backbone) -> Artifact:
    return train(bert, sentences(0, 120), test=sentences(1, 40), config=LORA).artifact


def renamed(rows: Dataset, names: dict[str, str]) -> Dataset:
    return Dataset.from_lists(rows.texts, [names.get(label, label) for label in rows.labels], source="renamed.csv")


SWAPPED = {"animal": "law", "law": "animal"}


@pytest.mark.parametrize("config", [PROBE, SMALL], ids=["head", "lora"])
def test_a_child_stores_its_own_delta_alone_and_is_judged_as_it_is_served(
    bert: Backbone, parent: Artifact, config: TrainingConfig
) -> None:
    before = {name: value.clone() for name, value in bert.model.state_dict().items()}
    rows, test = renamed(sentences(2, 120), SWAPPED), renamed(sentences(3, 60), SWAPPED)
    trained = train(bert, rows, test=test, config=config, ancestors=(parent,))
    after = bert.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert before.keys() == after.keys()
    child, manifest = trained.artifact, trained.artifact.manifest
    assert (manifest.parent, manifest.split) == (parent.digest, parent.manifest.split)
    assert child.size_bytes < parent.size_bytes
    assert tuple(child.files) == (HEAD,) if config is PROBE else len(manifest.tensors) < len(parent.manifest.tensors)
    plain = adapted_features(bert, child, test.texts, ancestors=(parent,))
    answers = probabilities(head_logits(child, plain), manifest.temperature)
    truth = np.array([manifest.labels.index(label) for label in test.labels])
    assert trained.evaluation is not None
    assert trained.evaluation.accuracy.value == pytest.approx((answers.argmax(1) == truth).mean(), abs=1e-6)
    parents = probabilities(
        head_logits(parent, adapted_features(bert, parent, test.texts)), parent.manifest.temperature
    )
    assert (answers.argmax(1) == truth).mean() > (parents.argmax(1) == truth).mean() + 0.3
    assert "3 of 3 labels agree" in manifest.decision
    assert "its log loss differs from its parent's by -" in manifest.decision

    artifacts = {one.digest: one for one in (parent, child)}
    engine = Engine(lambda _: bert, artifacts.__getitem__)
    engine.start()
    try:
        served = engine.embed("acme", bert.fingerprint, list(test.texts), adapter=child.digest).result(60).vectors
    finally:
        engine.close()
    np.testing.assert_allclose(served, plain.numpy(), rtol=1e-5, atol=1e-5)


def test_the_same_rows_parent_and_seed_give_the_same_digest(bert: Backbone, parent: Artifact) -> None:
    rows = renamed(sentences(2, 120), SWAPPED)
    one, other = (train(bert, rows, config=SMALL, ancestors=(parent,)).artifact for _ in range(2))
    assert one.digest == other.digest
    assert train(bert, rows, config=SMALL).artifact.digest != one.digest


def test_a_grandchild_stands_on_both(bert: Backbone, parent: Artifact) -> None:
    rows = renamed(sentences(2, 120), SWAPPED)
    region = train(bert, rows, config=SMALL, ancestors=(parent,)).artifact
    user = train(bert, sentences(4, 80), config=PROBE, ancestors=(region, parent)).artifact
    assert (user.manifest.parent, user.manifest.split) == (region.digest, parent.manifest.split)
    texts = rows.texts[:8]
    with inherited(bert, (region, parent)):
        wanted = bert.embed(texts, max_length=user.manifest.max_length)
    assert torch.equal(adapted_features(bert, user, texts, ancestors=(region, parent)), wanted)


def test_a_child_that_is_worse_than_its_parent_is_not_published(bert: Backbone, parent: Artifact) -> None:
    seen_by_the_parent = sentences(0, 120).select(list(range(20)))
    config = TrainingConfig.parse(
        strategy="feature-extraction",
        assignments=["test_share=0", "feature_extraction.head=mlp", "feature_extraction.alpha=0"],
    )
    with pytest.raises(NotBetter, match="the parent answers better") as caught:
        train(bert, seen_by_the_parent, config=config, ancestors=(parent,))
    assert caught.value.exit_code == 2
    counts = Counter(seen_by_the_parent.labels)
    assert [problem.where for problem in caught.value.problems] == sorted(name for name in counts if counts[name] < 8)
    assert "8 or more of each class" in (caught.value.remedy or "")


def test_strategies_that_do_not_add_up_are_refused(bert: Backbone, parent: Artifact) -> None:
    other = Artifact(parent.manifest.model_copy(update={"strategy": "full"}), parent.files)
    with pytest.raises(SettingsInvalid) as caught:
        train(bert, sentences(2, 40), config=PREFIX, ancestors=(other,))
    assert [problem.what for problem in caught.value.problems] == [
        "is prefix-tuning, which cannot be part of a chain",
        "is full, which cannot be part of a chain",
    ]


def test_labels_that_are_the_childs_own_start_from_nought_and_are_told(bert: Backbone, parent: Artifact) -> None:
    own = {"animal": "creature", "law": "justice", "trade": "commerce"}
    trained = train(bert, renamed(sentences(2, 60), own), config=PROBE, ancestors=(parent,))
    assert "a fresh head on the parent's features" in trained.artifact.manifest.decision
    assert "other labels, so the two were not compared" in trained.artifact.manifest.decision
    head = head_of(parent, ("law", "news", "trade"))
    assert head is not None
    assert head.weight.any(axis=1).tolist() == [True, False, True]


def test_a_head_that_starts_from_another_is_penalised_for_leaving_it() -> None:
    random = np.random.default_rng(1)
    features, labels = random.standard_normal((40, 3)) * 2 + 1, np.arange(40) % 2
    prior = Linear(random.standard_normal((2, 3)), random.standard_normal(2))
    scale = float(np.sqrt(((features - features.mean(axis=0)) ** 2).mean()))

    def objective(flat: Any) -> float:
        weight, bias = flat[:6].reshape(2, 3), flat[6:]
        nats = cross_entropy(features @ weight.T + bias, labels)
        left = (weight - prior.weight) * scale
        at_centre = bias - prior.bias + (weight - prior.weight) @ features.mean(axis=0)
        return nats + 0.3 / 2 * float((left**2).sum() + (at_centre**2).sum())

    wanted = minimize(objective, np.zeros(8)).x[:6].reshape(2, 3)
    weight, _ = fit_head(features, labels, classes=2, penalty=0.3, prior=prior)
    np.testing.assert_allclose(weight, wanted, atol=1e-3)
    stiff = fit_head(features, labels, classes=2, penalty=1e9, prior=prior)
    np.testing.assert_allclose(np.column_stack(stiff), np.column_stack(prior), atol=1e-6)
    probe = fit_probe(features, labels, np.arange(40), classes=2, penalties=(0.3,), folds=4, seed=0, prior=prior)
    np.testing.assert_allclose(probe.weight, weight, atol=1e-4)
    assert probe.prior is prior
