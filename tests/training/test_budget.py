"""The rank and dtype that keep an adapter within a budget of bytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graftwork.backbones.backbone import Backbone
from graftwork.errors import SettingsInvalid
from graftwork.training.budget import within_budget
from graftwork.training.config import TrainingConfig
from graftwork.training.job import train
from tests.training.test_job import sentences

LORA = TrainingConfig.parse(strategy="lora", assignments=["lora.rank=8", "lora.store=float32"])
SMALLEST_HEAD = 6_919
LABELS = ("animal", "law", "trade")


@pytest.fixture
def bert(backbone_of: Callable[..., Backbone]) -> Backbone:
    return backbone_of("bert")


@pytest.mark.parametrize("most_bytes", [200_000, 45_000, 30_000])
def test_what_is_published_keeps_the_budget_and_could_not_be_twice_as_large(bert: Backbone, most_bytes: int) -> None:
    quick = LORA.model_copy(update={"fine_tuning": LORA.fine_tuning.model_copy(update={"epochs": 1})})
    artifact = train(bert, sentences(0, 80), config=quick, max_bytes=most_bytes).artifact
    assert artifact.size_bytes <= most_bytes
    rank, store = (artifact.manifest.strategy_settings[name] for name in ("rank", "store"))
    assert (rank, store) == {200_000: (8, "float32"), 45_000: (8, "float16"), 30_000: (4, "float16")}[most_bytes]
    assert artifact.manifest.strategy_settings["alpha"] / rank == 16 / 8


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(most_bytes=st.integers(1, 200_000))
def test_auto_takes_a_head_alone_or_refuses(most_bytes: int, bert: Backbone) -> None:
    auto = LORA.model_copy(update={"strategy": "auto"})
    if most_bytes < SMALLEST_HEAD:
        with pytest.raises(SettingsInvalid, match="a head of 3 classes"):
            within_budget(bert, auto, labels=LABELS, most_bytes=most_bytes)
        return
    chosen, told = within_budget(bert, auto, labels=LABELS, most_bytes=most_bytes)
    if chosen.strategy == "auto":
        assert f"rank {chosen.lora.rank} in {chosen.lora.store}" in told
    else:
        assert (chosen.strategy, "a head alone" in told) == ("feature-extraction", True)
        with pytest.raises(SettingsInvalid, match="LoRA of rank 1"):
            within_budget(bert, LORA, labels=LABELS, most_bytes=most_bytes)


def test_strategies_whose_size_is_not_known_before_are_refused(bert: Backbone) -> None:
    with pytest.raises(SettingsInvalid, match="cannot be kept by full"):
        within_budget(bert, TrainingConfig(strategy="full"), labels=LABELS, most_bytes=10**6)
