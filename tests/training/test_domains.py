from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from graftwork.backbones.backbone import TextBackbone
from graftwork.data.dataset import Dataset
from graftwork.data.unlabelled import unlabelled
from graftwork.training.config import TrainingConfig
from graftwork.training.job import train
from tests.cli.samples import draw_rows

Backbones = Callable[..., TextBackbone]
QUICK = ("fine_tuning.epochs=2", "fine_tuning.batch_size=16", "domains.permutations=20", "domains.pretraining_epochs=1")
METHODS = ("none", "gradual-unfreezing", "adversarial", "self-training", "continued-pretraining")


@pytest.fixture
def bert(backbone_of: Backbones) -> TextBackbone:
    return backbone_of("bert")


def labelled(count: int = 30) -> Dataset:
    drawn = draw_rows(count)
    return Dataset.from_lists([text for text, _ in drawn], [label for _, label in drawn], source="rows.csv")


def target(count: int = 20) -> Dataset:
    """The same classes, in sentences of another kind."""
    return unlabelled([f"wonderful weather today, {text} in the markets" for text, _ in draw_rows(count, seed=5)])


def config(adaptation: str | None, strategy: str = "lora", *assignments: str, **values: Any) -> TrainingConfig:
    return TrainingConfig.parse(
        strategy=strategy, adaptation=adaptation, assignments=[*QUICK, *assignments], test_share=0.0, **values
    )


@pytest.mark.parametrize("method", METHODS)
def test_each_method_gives_the_same_digest_again_and_says_what_it_did(bert: TextBackbone, method: str) -> None:
    before = bert.embed(["the quick brown fox"])
    first, second = (train(bert, labelled(), adapt_to=target(), config=config(method)).artifact for _ in range(2))
    assert first.digest == second.digest
    record = first.manifest.adaptation
    assert record is not None
    assert (record.method, record.rows, record.digest) == (method, 40, target().digest)
    assert [one["method"] for one in record.considered] == [method]
    assert record.shift["domain_auc"]["value"] > 0.9
    assert torch.equal(bert.embed(["the quick brown fox"]), before)
