"""Rows with prefixes beside all other kinds: mixed equals solo, and both what the plain way gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from graftwork.adaptation.inference import adapted_features, head_logits
from graftwork.adaptation.prefix import PrefixTuning, PrefixTuningSettings
from graftwork.backbones.backbone import Backbone, TokenBatch
from graftwork.errors import ArtifactInvalid, ModelUnsupported
from graftwork.registry.artifact import DELTA, DELTA_CONFIG, HEAD, Artifact
from graftwork.serving.adapters import load_adapter
from graftwork.serving.engine import Engine, EngineLimits
from graftwork.serving.keys import AdapterKey
from graftwork.serving.prefix import PrefixDelta
from graftwork.serving.request import Vector
from tests.serving.builders import ATTENTION, TEXTS, Made, Spec, make, pack
from tests.serving.test_parity import base_vector, expected, row, run, runner_for

NEAR: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}
# Length, layers: every length and depth in one batch, and two adapters of the same.
PREFIXES = ((1, None), (5, None), (12, 2), (5, 1), (3, 2), (5, None))


@cache
def prefix_adapter(backbone: Backbone, seed: int, length: int, layers: int | None, **changes: Any) -> Made:
    """An adapter with a strong random prefix and a head of its own."""
    spec = Spec(seed=seed, targets=None, classes=2 + seed % 3, temperature=1.0 + seed, max_length=20)
    wanted = PrefixTuningSettings(length=length, layers=layers, store="float32")
    generator = torch.Generator().manual_seed(seed)
    with PrefixTuning().attach(backbone, wanted, seed=seed) as attachment:
        with torch.no_grad():
            for parameter in attachment.parameters():
                parameter.normal_(generator=generator)
        delta = attachment.delta()
    return packed(backbone, spec, delta.files, split=delta.split, **changes)


def packed(backbone: Backbone, spec: Spec, files: dict[str, bytes], *, split: int, **changes: Any) -> Made:
    plain = make(backbone, spec)
    files = {HEAD: plain.artifact.files[HEAD], **files}
    artifact = pack(
        backbone, files, load(files[DELTA]), spec=spec, split=split, **{"strategy": "prefix-tuning", **changes}
    )
    return Made(spec, backbone, artifact, None, plain.head)


def answer(made: Made, text: str) -> Vector:
    """Logits by the plain way: one adapter, one text."""
    features = adapted_features(made.backbone, made.artifact, [text])
    logits: Vector = (head_logits(made.artifact, features) / made.spec.temperature)[0]
    return logits


def wanted(backbone: Backbone, text: str, made: Made | None) -> Vector:
    if made is not None and made.artifact.manifest.strategy == "prefix-tuning":
        return answer(made, text)
    return expected(backbone, text, made)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "modernbert", "gpt2", "llama"])
def test_rows_of_every_kind_in_one_batch_get_what_each_gets_alone(
    architecture: str, backbone_of: Callable[..., Backbone]
) -> None:
    backbone = backbone_of(architecture)
    adapters: list[Made | None] = [prefix_adapter(backbone, seed, *shape) for seed, shape in enumerate(PREFIXES)]
    adapters += [None, make(backbone, Spec(seed=8, targets=None, classes=5))]
    if architecture in ATTENTION:
        adapters.append(make(backbone, Spec(seed=9, targets=ATTENTION[architecture])))
    asked = [(text, adapter) for text in TEXTS[:4] for adapter in adapters]
    runner, stack, _ = runner_for(backbone)
    rows = [row(backbone, text, adapter) for text, adapter in asked]
    together = run(runner, stack, rows)
    for (text, adapter), one, outcome in zip(asked, rows, together, strict=True):
        np.testing.assert_allclose(outcome, run(runner, stack, [one])[0], **NEAR)
        np.testing.assert_allclose(outcome, wanted(backbone, text, adapter), **NEAR)
    answers = np.stack([one[:2] for (text, _), one in zip(asked, together, strict=True) if text == TEXTS[0]])
    assert len(np.unique(answers.round(3), axis=0)) == len(adapters)


@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_neither_order_nor_neighbours_matter(data: st.DataObject, bert: Backbone) -> None:
    adapters: list[Made | None] = [prefix_adapter(bert, seed, *shape) for seed, shape in enumerate(PREFIXES)]
    asks = st.lists(st.tuples(st.sampled_from(TEXTS), st.sampled_from([*adapters, None])), min_size=1, max_size=8)
    asked = data.draw(asks)
    runner, stack, _ = runner_for(bert, cache_bytes=data.draw(st.sampled_from([0, 1 << 20])))
    for _ in range(2):  # the second time from what was kept
        got = run(runner, stack, [row(bert, text, adapter) for text, adapter in asked])
        for (text, adapter), outcome in zip(asked, got, strict=True):
            np.testing.assert_allclose(outcome, wanted(bert, text, adapter), **NEAR)


def test_all_prefixes_of_a_batch_run_in_one_pass(bert: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = [prefix_adapter(bert, seed, *shape) for seed, shape in enumerate(PREFIXES)]
    runner, stack, meter = runner_for(bert)
    passes: list[int] = []
    forward = bert.forward

    def counted(batch: TokenBatch) -> torch.Tensor:
        passes.append(len(batch.input_ids))
        return forward(batch)

    monkeypatch.setattr(bert, "forward", counted)
    run(runner, stack, [row(bert, TEXTS[0], adapter) for adapter in adapters])
    assert passes == [len(adapters)]
    assert meter.snapshot().computed_rows == len(adapters)


def test_the_engine_serves_prefixes_of_many_tenants(bert: Backbone) -> None:
    adapters = [prefix_adapter(bert, seed, *shape) for seed, shape in enumerate(PREFIXES)]
    # Beforehand: a backbone runs for one thread at a time.
    alone = [np.stack([answer(made, text) for text in TEXTS[:2]]) for made in adapters]
    engine = Engine(lambda _: bert, {made.digest: made.artifact for made in adapters}.__getitem__, EngineLimits())
    engine.start()
    try:
        futures = [engine.classify("acme", bert.fingerprint, made.digest, TEXTS[:2]) for made in adapters]
        for logits, future in zip(alone, futures, strict=True):
            probabilities = torch.softmax(torch.from_numpy(logits), dim=1).numpy()
            np.testing.assert_allclose(future.result(timeout=60).probabilities, probabilities, **NEAR)
    finally:
        engine.close()


def test_a_failed_pass_leaves_the_base_as_it_was(bert: Backbone) -> None:
    made = prefix_adapter(bert, 0, 5, None)
    delta = made.loaded.own
    assert isinstance(delta, PrefixDelta)
    before = base_vector(bert, TEXTS[0])
    broken = PrefixDelta.__new__(PrefixDelta)
    broken.keys, broken.values, broken.split, broken.offset = delta.keys[..., :3], delta.values[..., :3], 0, 0
    with pytest.raises(RuntimeError), torch.inference_mode():
        broken.hidden(bert, bert.collate([[2, 9, 3]]), [broken])
    np.testing.assert_array_equal(base_vector(bert, TEXTS[0]), before)


def test_a_prefix_is_kept_in_the_dtype_of_its_backbone(backbone_of: Callable[..., Backbone]) -> None:
    high, low = backbone_of("bert"), backbone_of("bert", "bfloat16")
    loaded = [prefix_adapter(backbone, 1, 5, 2).loaded for backbone in (high, low)]
    assert [adapter.split for adapter in loaded] == [1, 1]
    own = [adapter.own.nbytes for adapter in loaded if adapter.own is not None]
    assert own == [5 * 2 * 2 * 32 * 4, 5 * 2 * 2 * 32 * 2]
    assert loaded[0].nbytes - loaded[0].head.nbytes == own[0]


class TestRefused:
    def refuse(self, backbone: Backbone, artifact: Artifact) -> str:
        with pytest.raises((ArtifactInvalid, ModelUnsupported)) as caught:
            load_adapter(AdapterKey(artifact.digest, backbone.fingerprint), artifact, backbone, {})
        return str(caught.value)

    def with_files(self, backbone: Backbone, *, split: int = 0, **config: Any) -> Artifact:
        made = prefix_adapter(backbone, 0, 5, None)
        files = dict(made.artifact.files)
        files[DELTA_CONFIG] = json.dumps(json.loads(files[DELTA_CONFIG]) | config).encode()
        return packed(backbone, made.spec, files, split=split).artifact

    def test_a_config_that_does_not_fit_the_tensor(self, bert: Backbone) -> None:
        told = self.refuse(bert, self.with_files(bert, num_virtual_tokens=6))
        assert "has the shape [5, 192], expected is [6, 192]" in told
        assert "has the shape [5, 192], expected is [5, 128]" in self.refuse(bert, self.with_files(bert, num_layers=2))

    def test_what_would_change_the_answer_and_is_not_understood(self, bert: Backbone) -> None:
        assert "modules_to_save" in self.refuse(bert, self.with_files(bert, modules_to_save=["head"]))

    def test_a_prefix_below_the_split_that_the_manifest_tells(self, bert: Backbone) -> None:
        told = self.refuse(bert, self.with_files(bert, split=2))
        assert "layer 0 is adapted, but the manifest says that all below 2 are the base's" in told

    def test_a_prefix_longer_than_the_limit_before_it_is_read(self, bert: Backbone) -> None:
        made = prefix_adapter(bert, 0, 5, None)
        files = {**made.artifact.files, DELTA: save({"prompt_embeddings": torch.zeros(513, 192)})}
        told = self.refuse(bert, packed(bert, made.spec, files, split=0).artifact)
        assert "is a prefix of 513; 512 is allowed" in told
        told = self.refuse(bert, self.with_files(bert, num_virtual_tokens=10**6))
        assert "asks for a prefix of 1000000; 512 is allowed" in told

    def test_values_that_are_infinite_in_the_backbones_dtype(self, backbone_of: Callable[..., Backbone]) -> None:
        backbone = backbone_of("bert", "float16")
        made = prefix_adapter(backbone, 0, 5, None)
        files = {**made.artifact.files, DELTA: save({"prompt_embeddings": torch.full((5, 192), 1e6)})}
        told = self.refuse(backbone, packed(backbone, made.spec, files, split=0).artifact)
        assert "prompt_embeddings: holds NaN or infinity in float16" in told
