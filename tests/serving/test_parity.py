"""Mixed equals solo: whatever shares a batch, each row is what PEFT gives for its adapter alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from graftwork.backbones.backbone import Backbone
from graftwork.registry.artifact import DELTA, Artifact
from graftwork.registry.manifest import Pooling
from graftwork.serving.cache import ActivationCache, text_digest
from graftwork.serving.delta import adaptable
from graftwork.serving.engine import Engine, EngineLimits
from graftwork.serving.forward import Forward
from graftwork.serving.request import Row, Vector
from graftwork.serving.runner import Runner
from graftwork.serving.stacked import StackedAdapters
from graftwork.serving.stats import Meter
from tests.serving.builders import ATTENTION, EVERY, TEXTS, Made, Spec, unhooked

PROPERTY = settings(max_examples=15, suppress_health_check=list(HealthCheck))


def runner_for(backbone: Backbone, *, slots: int = 16, cache_bytes: int = 0) -> tuple[Runner, StackedAdapters, Meter]:
    meter = Meter()
    stack = StackedAdapters(device=backbone.device, slots=slots, nbytes=1 << 24, meter=meter)
    cache = ActivationCache(cache_bytes, meter)
    return Runner(backbone, Forward(backbone, adaptable(backbone)), stack, cache, meter), stack, meter


def row(backbone: Backbone, text: str, adapter: Made | None, *, head: bool = True) -> Row:
    loaded = adapter.loaded if adapter else None
    ids = tuple(backbone.encode([text], adapter.spec.max_length if adapter else None)[0])
    return Row(text_digest(text), ids, loaded, backbone.pooling, head and adapter is not None)


def run(runner: Runner, stack: StackedAdapters, rows: Sequence[Row]) -> list[Vector]:
    leases = {}
    for one in rows:
        if one.adapter is not None and one.adapter.delta is not None and one.adapter.key not in leases:
            lease = stack.pin(one.adapter.key, one.adapter.delta)
            assert lease is not None
            leases[one.adapter.key] = lease
    outcomes = runner.run(rows, leases)
    for lease in leases.values():
        stack.release(lease)
    assert all(isinstance(outcome, np.ndarray) for outcome in outcomes), outcomes
    return outcomes  # type: ignore[return-value]


def base_vector(backbone: Backbone, text: str) -> Vector:
    vector: Vector = backbone.embed([text])[0].numpy()
    return vector


def expected(backbone: Backbone, text: str, adapter: Made | None) -> Vector:
    if adapter is None:
        return base_vector(backbone, text)
    weight, bias = adapter.head
    logits: Vector = ((adapter.vector(text) @ weight.T + bias) / adapter.spec.temperature)[0].numpy()
    return logits


@st.composite
def specs(draw: st.DrawFn, architecture: str) -> Spec:
    if draw(st.integers(0, 4)) == 0:
        return Spec(seed=draw(st.integers(0, 3)), targets=None, classes=draw(st.sampled_from([2, 7])))
    targets = draw(st.sampled_from([ATTENTION[architecture], EVERY[architecture], EVERY[architecture][:1]]))
    first = targets[0]
    rslora = draw(st.booleans())
    layers = draw(st.sampled_from([None, (0,), (2,), (1, 2), (0, 2)]))
    patterned = draw(st.booleans()) and not rslora and layers in (None, (1, 2))
    return Spec(
        seed=draw(st.integers(0, 3)),
        rank=draw(st.sampled_from([1, 4, 8, 9])),
        alpha=draw(st.sampled_from([1.0, 16.0])),
        targets=targets,
        layers=layers,
        rank_pattern=((first, 12),) if patterned else (),
        alpha_pattern=((rf".*\.1\..*{first}", 3.0),) if patterned else (),
        rslora=rslora,
        classes=draw(st.sampled_from([2, 3, 11])),
        temperature=draw(st.sampled_from([1.0, 0.7, 2.5])),
        max_length=draw(st.sampled_from([5, 32])),
        store=draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16])),
    )


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
@PROPERTY
@given(data=st.data())
def test_a_mixed_batch_gives_each_row_what_peft_gives_it_alone(
    architecture: str,
    data: st.DataObject,
    backbone_of: Callable[..., Backbone],
    made: Callable[..., Made],
) -> None:
    backbone = backbone_of(architecture)
    adapters: list[Made | None] = [None]
    adapters += [made(backbone, spec) for spec in data.draw(st.lists(specs(architecture), min_size=1, max_size=4))]
    asked = data.draw(st.lists(st.tuples(st.sampled_from(TEXTS), st.sampled_from(adapters)), min_size=1, max_size=9))
    runner, stack, _ = runner_for(backbone)
    got = run(runner, stack, [row(backbone, text, adapter) for text, adapter in asked])
    for (text, adapter), outcome in zip(asked, got, strict=True):
        np.testing.assert_allclose(outcome, expected(backbone, text, adapter), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ["modernbert", "llama"])
def test_other_architectures_serve_all_their_linear_layers(
    architecture: str, backbone_of: Callable[..., Backbone], made: Callable[..., Made]
) -> None:
    backbone = backbone_of(architecture)
    adapters = [
        made(backbone, Spec(seed=seed, targets=EVERY[architecture], layers=(1, 2) if seed else None)) for seed in (0, 1)
    ]
    asked = [(text, adapter) for text in TEXTS for adapter in (*adapters, None)]
    runner, stack, _ = runner_for(backbone)
    got = run(runner, stack, [row(backbone, text, adapter) for text, adapter in asked])
    for (text, adapter), outcome in zip(asked, got, strict=True):
        np.testing.assert_allclose(outcome, expected(backbone, text, adapter), rtol=1e-5, atol=1e-5)


def test_an_adapter_merged_into_the_weights_in_plain_pytorch_gives_the_same(
    bert: Backbone, made: Callable[..., Made]
) -> None:
    adapter = made(bert, Spec(rank=3, alpha=5.0, targets=EVERY["bert"], layers=(1, 2)))
    runner, stack, _ = runner_for(bert)
    got = run(runner, stack, [row(bert, text, adapter, head=False) for text in TEXTS])
    merged = unhooked(bert)
    tensors = load(adapter.artifact.files[DELTA])
    for name in {name.rsplit(".lora_", 1)[0] for name in tensors}:
        update = tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"] * (5.0 / 3)
        merged.get_submodule(name.removeprefix("base_model.model.")).weight.data += update
    for text, outcome in zip(TEXTS, got, strict=True):
        ids = torch.tensor(bert.encode([text], 32))
        with torch.no_grad():
            hidden = merged(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        np.testing.assert_allclose(outcome, hidden[0].mean(dim=0).numpy(), rtol=1e-5, atol=1e-5)
        assert np.abs(outcome - base_vector(bert, text)).max() > 1e-2


@PROPERTY
@given(order=st.permutations(range(8)), keep=st.integers(1, 8))
def test_neither_order_nor_neighbours_matter(
    order: list[int], keep: int, bert: Backbone, made: Callable[..., Made]
) -> None:
    adapters = [made(bert, Spec(seed=seed, rank=rank)) for seed, rank in ((0, 2), (1, 16))]
    adapters.append(made(bert, Spec(targets=None, classes=5)))
    rows = [row(bert, TEXTS[index % 5], (*adapters, None)[index % 4]) for index in range(8)]
    runner, stack, _ = runner_for(bert)
    alone = [run(runner, stack, [one])[0] for one in rows]
    picked = order[:keep]
    together = run(runner, stack, [rows[index] for index in picked])
    for index, outcome in zip(picked, together, strict=True):
        np.testing.assert_allclose(outcome, alone[index], rtol=1e-5, atol=1e-5)


def test_a_mixed_batch_in_bfloat16_is_as_near_to_float32_as_peft_in_bfloat16(
    backbone_of: Callable[..., Backbone], made: Callable[..., Made]
) -> None:
    """Both round every product to 8 bits, in another order: over many answers, neither may be much further off.

    Few batches, drawn beforehand: without hardware for it, bfloat16 is slow.
    """
    low, high = backbone_of("bert", "bfloat16"), backbone_of("bert")
    drawn = [
        Spec(seed=1, rank=8),
        Spec(seed=2, rank=4, targets=EVERY["bert"]),
        Spec(seed=3, rank=12, layers=(2,), classes=11, temperature=0.7),
        Spec(seed=4, rank=1, layers=(1, 2), store=torch.bfloat16, max_length=5),
        Spec(seed=5, rank=9, rslora=True, classes=2, store=torch.float16),
        Spec(seed=6, targets=None, classes=7),
    ]
    adapters = [made(low, spec) for spec in drawn]
    asked = [(adapter, text) for text in TEXTS for adapter in adapters]
    random.Random(0).shuffle(asked)
    runner, stack, _ = runner_for(low)
    got = run(runner, stack, [row(low, text, adapter) for adapter, text in asked])
    truth = [expected(high, text, made(high, adapter.spec)) for adapter, text in asked]
    twin = [expected(low, text, adapter) for adapter, text in asked]
    ours, peft = (np.abs(np.concatenate(found) - np.concatenate(truth)) for found in (got, twin))
    assert np.sqrt((ours**2).mean()) <= 1.5 * np.sqrt((peft**2).mean())
    assert ours.max() <= 2 * peft.max()
    assert peft.max() < 0.3


@PROPERTY
@given(data=st.data())
def test_what_the_cache_gives_is_what_would_have_been_computed(
    data: st.DataObject, bert: Backbone, made: Callable[..., Made]
) -> None:
    """Batch after batch of few texts and adapters of every depth: kept vectors, kept trunks and none, in any order."""
    drawn = [Spec(seed=seed, layers=layers) for seed, layers in enumerate([None, (1, 2), (2,), (2,)])]
    adapters: list[Made | None] = [None, *(made(bert, spec) for spec in drawn)]
    adapters += [made(bert, Spec(seed=seed, targets=None, classes=3 + seed, max_length=5 + seed)) for seed in range(2)]
    runner, stack, meter = runner_for(bert, cache_bytes=data.draw(st.sampled_from([2_000, 12_000, 1 << 20])))
    asks = st.lists(st.tuples(st.sampled_from(TEXTS), st.sampled_from(adapters), st.booleans()), min_size=1, max_size=6)
    for batch in data.draw(st.lists(asks, min_size=3, max_size=7)):
        got = run(runner, stack, [row(bert, text, adapter, head=head) for text, adapter, head in batch])
        for (text, adapter, head), outcome in zip(batch, got, strict=True):
            wanted = expected(bert, text, adapter) if head or adapter is None else adapter.vector(text)[0].numpy()
            np.testing.assert_allclose(outcome, wanted, rtol=1e-5, atol=1e-5)
    again = [row(bert, *ask[:2], head=ask[2]) for ask in batch]
    first, second = run(runner, stack, again), run(runner, stack, again)
    if meter.snapshot().cache_evictions == 0:
        np.testing.assert_equal(first, second)


@PROPERTY
@given(data=st.data())
def test_one_trunk_serves_all_adapters_of_a_text(
    data: st.DataObject, bert: Backbone, made: Callable[..., Made]
) -> None:
    depths = st.sampled_from([None, (0,), (1,), (2,), (1, 2)])
    drawn = data.draw(st.lists(st.tuples(st.integers(0, 5), depths), min_size=2, max_size=6, unique=True))
    adapters = [made(bert, Spec(seed=seed, rank=2 + seed, layers=layers)) for seed, layers in drawn]
    texts = data.draw(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=2, unique=True))
    asked = data.draw(st.permutations([(text, adapter) for text in texts for adapter in (*adapters, None)]))
    runner, stack, meter = runner_for(bert)
    got = run(runner, stack, [row(bert, text, adapter) for text, adapter in asked])
    for (text, adapter), outcome in zip(asked, got, strict=True):
        np.testing.assert_allclose(outcome, expected(bert, text, adapter), rtol=1e-5, atol=1e-5)
    # However many share it, a trunk is computed once a text or not apart at all.
    assert meter.snapshot().trunk_rows in (0, len(texts))


def test_vectors_can_be_asked_of_a_base_a_head_only_and_a_lora_adapter_in_one_pass(
    bert: Backbone, made: Callable[..., Made]
) -> None:
    lora, head_only = made(bert, Spec(seed=5)), made(bert, Spec(seed=6, targets=None))
    runner, stack, meter = runner_for(bert)
    text = TEXTS[1]
    rows = [row(bert, text, adapter, head=False) for adapter in (None, head_only, lora)]
    base, headless, adapted = run(runner, stack, [*rows, row(bert, text, head_only)])[:3]
    np.testing.assert_array_equal(base, headless)
    np.testing.assert_allclose(base, base_vector(bert, text), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(adapted, lora.vector(text)[0].numpy(), rtol=1e-5, atol=1e-5)
    # One body for the base's own vector, whoever asks for it, and one for the adapter's.
    assert meter.snapshot().computed_rows == 2


def test_rows_are_pooled_as_their_own_manifest_says(bert: Backbone, made: Callable[..., Made]) -> None:
    runner, stack, _ = runner_for(bert)
    rows = []
    poolings = [Pooling(mode="cls"), Pooling(mode="last", normalize=True), Pooling(mode="mean")]
    for pooling in poolings:
        ids = tuple(bert.encode([TEXTS[0]])[0])
        rows.append(Row(text_digest(TEXTS[0]), ids, None, pooling, head=False))
    padding = row(bert, TEXTS[3], None)
    cls, last, mean, _ = run(runner, stack, [*rows, padding])
    hidden = bert.forward(bert.collate([rows[0].ids]))[0].numpy()
    np.testing.assert_allclose(cls, hidden[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(last, hidden[-1] / np.linalg.norm(hidden[-1]), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mean, hidden.mean(axis=0), rtol=1e-5, atol=1e-5)


def test_texts_of_several_adapters_share_the_layers_below_them(bert: Backbone, made: Callable[..., Made]) -> None:
    adapters = [made(bert, Spec(seed=seed, layers=(2,))) for seed in range(4)]
    runner, stack, meter = runner_for(bert)
    asked = [(text, adapter) for text in TEXTS[:2] for adapter in adapters]
    got = run(runner, stack, [row(bert, text, adapter) for text, adapter in asked])
    for (text, adapter), outcome in zip(asked, got, strict=True):
        np.testing.assert_allclose(outcome, expected(bert, text, adapter), rtol=1e-5, atol=1e-5)
    stats = meter.snapshot()
    assert (stats.trunk_rows, stats.computed_rows) == (2, 8)
    assert stats.step_seconds["trunk"].count == 1


@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_more_adapters_than_slots_and_memory_answer_as_if_there_were_room(
    data: st.DataObject, bert: Backbone, made: Callable[..., Made]
) -> None:
    adapters = [
        made(bert, Spec(seed=seed, rank=(2, 8, 20)[seed % 3], classes=2 + seed % 3, layers=(None, (1,))[seed % 2]))
        for seed in range(6)
    ]
    by_digest: dict[str, Artifact] = {adapter.digest: adapter.artifact for adapter in adapters}
    # Room for two adapters in host memory and two in each bank of slots.
    largest = max(adapter.loaded.nbytes for adapter in adapters)
    limits = EngineLimits(slots=2, host_bytes=2 * largest, batch_rows=data.draw(st.sampled_from([1, 5, 64])))
    engine = Engine(lambda _: bert, by_digest.__getitem__, limits)
    engine.start()
    asked = data.draw(st.lists(st.tuples(st.sampled_from(adapters), st.sampled_from(TEXTS)), min_size=12, max_size=24))
    try:
        futures = [engine.classify("acme", bert.fingerprint, made.digest, [text, TEXTS[0]]) for made, text in asked]
        for (adapter, text), future in zip(asked, futures, strict=True):
            answer = future.result(timeout=60)
            wanted = [adapter.probabilities(text), adapter.probabilities(TEXTS[0])]
            np.testing.assert_allclose(answer.probabilities, wanted, rtol=1e-5, atol=1e-5)
            assert answer.digest == adapter.digest
            assert answer.labels == adapter.artifact.manifest.labels
    finally:
        engine.close()
    stats = engine.stats()
    assert stats.host_bytes <= 2 * largest
    assert stats.answers == len(asked)


def test_many_threads_each_get_their_own_answers(bert: Backbone, made: Callable[..., Made]) -> None:
    adapters = [
        made(bert, Spec(seed=seed, rank=2 + seed, targets=None if seed == 3 else ("value",))) for seed in range(5)
    ]
    by_digest = {adapter.digest: adapter.artifact for adapter in adapters}
    engine = Engine(lambda _: bert, by_digest.__getitem__, EngineLimits(slots=3))
    engine.start()

    def ask(index: int) -> None:
        adapter, text = adapters[index % 5], TEXTS[index % 6]
        if index % 7 == 0:
            vectors = engine.embed(f"tenant-{index % 4}", bert.fingerprint, [text]).result(timeout=60).vectors
            np.testing.assert_allclose(vectors[0], base_vector_of[text], rtol=1e-5, atol=1e-5)
            return
        answer = engine.classify(f"tenant-{index % 4}", bert.fingerprint, adapter.digest, [text]).result(timeout=60)
        np.testing.assert_allclose(answer.probabilities[0], twins[adapter.digest, text], rtol=1e-5, atol=1e-5)

    base_vector_of = {text: base_vector(bert, text) for text in TEXTS}
    twins = {(adapter.digest, text): adapter.probabilities(text) for adapter in adapters for text in TEXTS}
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(300)))
    finally:
        engine.close()
    assert engine.stats().answers == 300
