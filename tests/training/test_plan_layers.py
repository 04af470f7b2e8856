"""Equal layers are counted once: a plan equals the count of every layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from graftwork.training import plan_counts
from graftwork.training.config import TrainingConfig
from graftwork.training.plan import Plan, make_plan
from tests.backbones.tiny import config_of

LENGTHS = [9] * 40
CASES = [
    ("llama", "lora", ("lora.layers=4", "lora.targets=attention")),
    ("llama", "lora", ("lora.rank_pattern={'layers?.3.*': 2}", "lora.targets=attention")),
    ("llama", "prefix-tuning", ()),
    ("llama", "partial", ("partial.freeze_until=1",)),
    ("llama", "full", ()),
    ("modernbert", "lora", ("lora.targets=attention",)),
]


def planned(
    model: Any, strategy: str, assignments: tuple[str, ...] = (), *, dtype: torch.dtype = torch.float32
) -> Plan:
    config = TrainingConfig.parse(strategy=strategy, assignments=["fine_tuning.batch_size=4", *assignments])
    return make_plan(model, config, strategy=strategy, lengths=LENGTHS, classes=3, dtype=dtype)


@pytest.mark.parametrize(("architecture", "strategy", "assignments"), CASES)
def test_a_plan_of_few_layers_equals_the_count_of_all(
    architecture: str, strategy: str, assignments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = config_of(architecture, num_hidden_layers=6)
    few = planned(model, strategy, assignments)
    monkeypatch.setattr(plan_counts, "_groups", lambda model, settings: [[index] for index in range(len(model.layers))])
    assert planned(model, strategy, assignments) == few


def llama(width: int, inner: int, heads: int, layers: int) -> Any:
    """As Meta publishes them: a vocabulary of 128,256, eight heads of keys and values, an output layer of its own."""
    return transformers.LlamaConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=8,
        num_hidden_layers=layers,
        vocab_size=128_256,
        max_position_embeddings=131_072,
    )


# Published counts are those of the causal model; a classifier has no output layer [vocabulary, width].
PUBLISHED = {
    "Llama-3.1-8B": (llama(4096, 14336, 32, 32), 8_030_261_248),
    "Llama-3.1-70B": (llama(8192, 28672, 64, 80), 70_553_706_496),
    "Llama-3.1-405B": (llama(16384, 53248, 128, 126), 405_853_388_800),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_large_models_are_planned_from_their_configurations_alone(name: str) -> None:
    model, published = PUBLISHED[name]
    plan = planned(model, "lora", ("lora.targets=attention",), dtype=torch.bfloat16)
    assert plan.parameters == published - model.vocab_size * model.hidden_size
    assert plan.memory.weights == 2 * plan.parameters
    kv = model.hidden_size // model.num_attention_heads * 8
    assert plan.trainable - plan.head == model.num_hidden_layers * 8 * (3 * model.hidden_size + kv)
    assert plan.memory.peak > plan.memory.weights + plan.memory.activations
