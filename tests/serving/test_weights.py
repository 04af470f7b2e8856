"""Rows of partial and full fine-tunes beside those of other adapters: each its own answer, the base as it was."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from graftwork.adaptation import STRATEGIES
from graftwork.adaptation.inference import adapted_features, head_logits, probabilities
from graftwork.adaptation.weights import WeightsAttachment
from graftwork.backbones.backbone import Backbone
from graftwork.errors import ArtifactInvalid
from graftwork.registry.artifact import DELTA, HEAD
from graftwork.serving.engine import Engine, EngineLimits
from graftwork.serving.weights import WeightsDelta, read_weights_delta
from tests.adaptation.decoded import decode_onto
from tests.serving.builders import TEXTS, Made, Spec, pack, unhooked
from tests.serving.test_parity import expected, row, run, runner_for

Tuned = Callable[..., Made]


@pytest.fixture(scope="session")
def tuned() -> Tuned:
    """Partial and full fine-tunes by backbone, strategy, seed and settings, made once."""

    @cache
    def get(backbone: Backbone, strategy: str, seed: int = 0, **settings: Any) -> Made:
        found = STRATEGIES[strategy]
        generator = torch.Generator().manual_seed(seed)
        spec = Spec(seed=seed, classes=3 + seed % 3)
        with found.attach(backbone, found.settings_type(**settings), seed=0) as attachment:
            assert isinstance(attachment, WeightsAttachment)
            with torch.no_grad():
                for parameter in attachment.parameters():
                    noise = torch.randn(parameter.shape, generator=generator) * 0.05
                    # Of the tables only some rows, as if only some words had occurred.
                    noise[len(noise) // 2 :] *= float(len(noise) != 320)
                    parameter.add_(noise)
            delta = attachment.delta()
        tensors = load(delta.files[DELTA])
        model = unhooked(backbone)
        decode_onto(model, tensors)
        head = (
            torch.randn(spec.classes, backbone.width, generator=generator),
            torch.randn(spec.classes, generator=generator),
        )
        files = {HEAD: save({"head.weight": head[0], "head.bias": head[1]}), **delta.files}
        artifact = pack(backbone, files, tensors, spec=spec, split=delta.split, strategy=strategy)
        return Made(spec, backbone, artifact, model, head)

    return get


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
def test_a_mixed_batch_gives_each_row_its_own_answer(
    architecture: str, backbone_of: Callable[..., Backbone], made: Callable[..., Made], tuned: Tuned
) -> None:
    backbone = backbone_of(architecture)
    targets = {"bert": ("query", "value"), "gpt2": ("c_attn",), "llama": ("q_proj",)}[architecture]
    adapters = [
        None,
        made(backbone, Spec(seed=3, targets=targets)),
        made(backbone, Spec(seed=4, targets=None, classes=5)),
        tuned(backbone, "partial", 1),
        tuned(backbone, "full", 2),
        tuned(backbone, "full", 3, store="lossless"),
        tuned(backbone, "partial", 4, store="float16", freeze_layers=2),
    ]
    asked = [(text, adapter) for text in TEXTS for adapter in adapters]
    random.Random(0).shuffle(asked)
    runner, stack, _ = runner_for(backbone)
    got = run(runner, stack, [row(backbone, text, adapter) for text, adapter in asked])
    for (text, adapter), outcome in zip(asked, got, strict=True):
        np.testing.assert_allclose(outcome, expected(backbone, text, adapter), rtol=1e-5, atol=1e-5)
    alone = run(runner, stack, [row(backbone, *asked[0])])
    np.testing.assert_allclose(alone[0], got[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("strategy", ["partial", "full"])
def test_answers_are_those_of_answering_the_plain_way(strategy: str, bert: Backbone, tuned: Tuned) -> None:
    adapter = tuned(bert, strategy, 1)
    runner, stack, _ = runner_for(bert)
    got = run(runner, stack, [row(bert, text, adapter) for text in TEXTS])
    plain = head_logits(adapter.artifact, adapted_features(bert, adapter.artifact, TEXTS))
    np.testing.assert_allclose(got, plain, rtol=1e-5, atol=1e-5)


def test_no_more_than_one_layer_is_ever_changed_and_none_below_the_split(bert: Backbone, tuned: Tuned) -> None:
    own = tuned(bert, "full", 1).loaded.own
    assert isinstance(own, WeightsDelta)
    originals = dict(bert.model.named_parameters())
    seen: list[set[int]] = []

    def look(*_: Any) -> None:
        changed = {name for name, parameter in bert.model.named_parameters() if parameter is not originals[name]}
        seen.append({int(name.split(".")[2]) for name in changed if name.startswith("encoder.layer.")})
        # The tables are corrected as they are read, and never made twice.
        assert not [name for name in changed if "_embeddings" in name]

    hooks = [module.register_forward_pre_hook(look) for module in bert.model.modules() if not list(module.children())]
    batch = bert.collate(bert.encode(TEXTS))
    try:
        with torch.inference_mode():
            own.hidden(bert, batch, [own] * len(TEXTS))
            partial = tuned(bert, "partial", 1, freeze_layers=2).loaded.own
            assert partial is not None
            full, seen[:] = list(seen), []
            partial.hidden(bert, batch, [partial] * len(TEXTS))
    finally:
        for hook in hooks:
            hook.remove()
    assert {frozenset(layers) for layers in full} == {frozenset(), *(frozenset({index}) for index in range(3))}
    assert {frozenset(layers) for layers in seen} == {frozenset(), frozenset({2})}


def test_a_delta_that_is_loaded_while_another_is_in_place_is_of_the_base(bert: Backbone, tuned: Tuned) -> None:
    own, files = tuned(bert, "full", 1).loaded.own, tuned(bert, "full", 2).artifact.files
    assert own is not None
    batch = bert.collate(bert.encode(TEXTS))
    late = []

    def load_now(*_: Any) -> None:
        late.append(read_weights_delta(files["adapter_config.json"], files[DELTA], bert))

    hook = bert.model.get_submodule("encoder.layer.1.output.dense").register_forward_pre_hook(load_now)
    try:
        with torch.inference_mode():
            own.hidden(bert, batch, [own] * len(TEXTS))
    finally:
        hook.remove()
    with torch.inference_mode():
        found = late[0].hidden(bert, batch, [late[0]] * len(TEXTS))
        bare = bert.forward(batch)
    model: Any = tuned(bert, "full", 2).model
    with torch.no_grad():
        wanted = model(input_ids=batch.arguments["input_ids"], attention_mask=batch.attention_mask).last_hidden_state
        base: Any = unhooked(bert)
        untouched = base(input_ids=batch.arguments["input_ids"], attention_mask=batch.attention_mask).last_hidden_state
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bare, untouched, rtol=0, atol=0)


def test_what_is_kept_in_memory_is_what_is_stored(bert: Backbone, tuned: Tuned) -> None:
    adapter = tuned(bert, "full", 1)
    stored = load(adapter.artifact.files[DELTA])
    assert adapter.loaded.own is not None
    assert adapter.loaded.own.nbytes == sum(tensor.nbytes for tensor in stored.values())
    assert adapter.loaded.own.nbytes < 0.1 * sum(p.nbytes for p in bert.model.parameters())
    assert adapter.loaded.split == 0
    assert tuned(bert, "partial", 1).loaded.split == 1


@pytest.mark.parametrize("layer", [0, 2])
def test_a_fault_in_the_middle_leaves_the_base_as_it_was(layer: int, bert: Backbone, tuned: Tuned) -> None:
    adapter = tuned(bert, "full", 1)
    runner, stack, _ = runner_for(bert)
    before = {name: (parameter, parameter.clone()) for name, parameter in bert.model.named_parameters()}
    hooked = {module: len(module._forward_hooks) + len(module._forward_pre_hooks) for module in bert.model.modules()}

    def fail(*_: Any) -> None:
        raise RuntimeError("a fault in the middle")

    hook = bert.model.get_submodule(f"encoder.layer.{layer}.output.dense").register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="in the middle"):
            run(runner, stack, [row(bert, TEXTS[0], None), row(bert, TEXTS[0], adapter)])
    finally:
        hook.remove()
    for name, parameter in bert.model.named_parameters():
        assert parameter is before[name][0]
        assert torch.equal(parameter, before[name][1])
    assert hooked == {m: len(m._forward_hooks) + len(m._forward_pre_hooks) for m in bert.model.modules()}
    for who in (None, adapter):
        (again,) = run(runner, stack, [row(bert, TEXTS[1], who)])
        np.testing.assert_allclose(again, expected(bert, TEXTS[1], who), rtol=1e-5, atol=1e-5)


def test_a_row_that_fails_in_an_engine_harms_no_other(bert: Backbone, made: Callable[..., Made], tuned: Tuned) -> None:
    sound, broken, lora = tuned(bert, "full", 1), tuned(bert, "full", 2), made(bert, Spec(seed=3))
    by_digest = {adapter.digest: adapter.artifact for adapter in (sound, broken, lora)}
    engine = Engine(lambda _: bert, by_digest.__getitem__, EngineLimits())
    unlucky = len(bert.encode([TEXTS[3]], broken.spec.max_length)[0])
    dense = bert.model.get_submodule("encoder.layer.0.output.dense")

    def fail(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if args[0].shape[:2] == (1, unlucky) and not isinstance(module.weight, torch.nn.Parameter):
            raise RuntimeError("this text, with other weights, is too much")

    hook = dense.register_forward_pre_hook(fail)
    asked = [(sound, TEXTS[0]), (broken, TEXTS[3]), (lora, TEXTS[3]), (sound, TEXTS[1])]
    try:
        futures = [engine.classify("acme", bert.fingerprint, adapter.digest, [text]) for adapter, text in asked]
        engine.start()
        for (adapter, text), future in zip(asked, futures, strict=True):
            if adapter is broken:
                assert "too much" in str(future.exception(timeout=60))
            else:
                found = future.result(timeout=60).probabilities[0]
                np.testing.assert_allclose(found, adapter.probabilities(text), rtol=1e-5, atol=1e-5)
    finally:
        hook.remove()
        engine.close()


def test_an_adapter_that_was_evicted_answers_the_same_when_it_comes_back(bert: Backbone, tuned: Tuned) -> None:
    adapters = [tuned(bert, "full", 1), tuned(bert, "partial", 2), tuned(bert, "full", 3, store="lossless")]
    by_digest = {adapter.digest: adapter.artifact for adapter in adapters}
    largest = max(adapter.loaded.nbytes for adapter in adapters)
    engine = Engine(lambda _: bert, by_digest.__getitem__, EngineLimits(host_bytes=largest, cache_bytes=0))
    engine.start()
    try:
        for adapter in [*adapters, *adapters]:
            answer = engine.classify("acme", bert.fingerprint, adapter.digest, TEXTS).result(timeout=60)
            wanted = [adapter.probabilities(text) for text in TEXTS]
            np.testing.assert_allclose(answer.probabilities, wanted, rtol=1e-5, atol=1e-5)
        base = engine.embed("acme", bert.fingerprint, TEXTS).result(timeout=60).vectors
    finally:
        engine.close()
    np.testing.assert_allclose(base, bert.embed(TEXTS), rtol=1e-5, atol=1e-5)
    stats = engine.stats()
    assert stats.host_evictions >= len(adapters)
    assert stats.host_bytes <= largest


def test_known_vectors_of_tuned_weights_are_not_those_of_the_base(bert: Backbone, tuned: Tuned) -> None:
    adapters = [tuned(bert, "full", 1), tuned(bert, "partial", 2)]
    runner, stack, meter = runner_for(bert, cache_bytes=1 << 20)
    rows = [row(bert, text, adapter) for text in TEXTS for adapter in (*adapters, None)]
    first, second = run(runner, stack, rows), run(runner, stack, rows)
    np.testing.assert_equal(first, second)
    assert meter.snapshot().computed_rows == len(rows)
    for (text, adapter), outcome in zip([(t, a) for t in TEXTS for a in (*adapters, None)], second, strict=True):
        np.testing.assert_allclose(outcome, expected(bert, text, adapter), rtol=1e-5, atol=1e-5)


def test_a_table_that_scales_what_it_gives_is_served_too(backbone_of: Callable[..., Backbone], tuned: Tuned) -> None:
    backbone = backbone_of("bart", scale_embedding=True)
    adapter = tuned(backbone, "full", 1)
    runner, stack, _ = runner_for(backbone)
    got = run(runner, stack, [row(backbone, text, adapter) for text in TEXTS])
    for text, outcome in zip(TEXTS, got, strict=True):
        np.testing.assert_allclose(outcome, expected(backbone, text, adapter), rtol=1e-5, atol=1e-5)


def test_in_half_precision_the_weights_are_rounded_as_the_plain_way_rounds_them(
    backbone_of: Callable[..., Backbone], tuned: Tuned
) -> None:
    backbone = backbone_of("bert", "bfloat16")
    adapter = tuned(backbone, "full", 1)
    runner, stack, _ = runner_for(backbone)
    got = run(runner, stack, [row(backbone, TEXTS[0], adapter)])
    plain = adapted_features(backbone, adapter.artifact, TEXTS[:1])
    np.testing.assert_allclose(got[0], head_logits(adapter.artifact, plain)[0], rtol=1e-5, atol=1e-5)


def test_weights_below_the_split_that_the_manifest_promises_are_refused(bert: Backbone, tuned: Tuned) -> None:
    adapter = tuned(bert, "partial", 1)
    tensors = load(adapter.artifact.files[DELTA])
    claimed = pack(bert, adapter.artifact.files, tensors, spec=adapter.spec, split=2, strategy="partial")
    with pytest.raises(ArtifactInvalid, match="layer 1 is adapted"):
        _ = Made(adapter.spec, bert, claimed, None, adapter.head).loaded


def test_what_does_not_fit_is_refused_before_it_answers(bert: Backbone, tuned: Tuned) -> None:
    files = tuned(bert, "full", 1).artifact.files
    tensors = load(files[DELTA])
    tensors["embeddings.word_embeddings.weight.rows"][-1] = 320
    with pytest.raises(ArtifactInvalid, match="not rising places among 320 rows"):
        read_weights_delta(files["adapter_config.json"], save(tensors), bert)


def test_probabilities_are_those_of_the_published_head(bert: Backbone, tuned: Tuned) -> None:
    adapter = tuned(bert, "partial", 1)
    plain = head_logits(adapter.artifact, adapted_features(bert, adapter.artifact, TEXTS[:1]))
    np.testing.assert_allclose(adapter.probabilities(TEXTS[0]), probabilities(plain, 1.0)[0], rtol=1e-5, atol=1e-5)
