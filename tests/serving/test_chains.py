"""A chain answers as its updates say, added up, in one batch with everybody else."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer

from graftwork.adaptation.inference import adapted_features
from graftwork.adaptation.merge import merged_weights
from graftwork.backbones.backbone import Backbone
from graftwork.errors import ArtifactInvalid, BlobDamaged, NotFound
from graftwork.registry.artifact import Artifact
from graftwork.serving.adapters import AdapterCache, LoadedAdapter
from graftwork.serving.delta import adaptable, stacked_delta
from graftwork.serving.engine import Engine, EngineLimits
from graftwork.serving.keys import AdapterKey
from graftwork.serving.loading import LoaderPool
from graftwork.serving.stats import Meter
from tests.serving.builders import ATTENTION, EVERY, TEXTS, Made, Spec, make, unhooked

GLOBAL = Spec(seed=1, rank=4, alpha=6.0, targets=EVERY["bert"], layers=(1, 2))
REGION = Spec(seed=2, rank=3, alpha=3.0, targets=ATTENTION["bert"])
USER = Spec(seed=3, rank=2, alpha=8.0, targets=("value", "intermediate.dense"), temperature=1.5)
HEAD_ONLY = Spec(seed=4, targets=None, classes=2)


def on(parent: Made, spec: Spec) -> Made:
    """A child of `parent`, and its twin: the parent's whole update merged into the weights, then PEFT's child."""
    backbone = parent.backbone
    child = make(backbone, spec)
    manifest = child.artifact.manifest
    split = min(parent.artifact.manifest.split, manifest.split)
    artifact = Artifact(manifest.model_copy(update={"parent": parent.digest, "split": split}), child.artifact.files)
    child = replace(child, artifact=artifact)
    merged = copy.deepcopy(parent.model)
    if hasattr(merged, "merge_and_unload"):
        merged = merged.merge_and_unload()
    if spec.targets is None:
        return replace(child, model=merged)
    for name, module in child.model.base_model.model.named_modules():
        plain = module.get_base_layer() if isinstance(module, LoraLayer) else module
        if ".lora_" not in name and ".base_layer" not in name and isinstance(plain, torch.nn.Linear):
            plain.weight.data.copy_(merged.get_submodule(name).weight.data)
    return child


@pytest.fixture(scope="module")
def chain(bert: Backbone) -> Mapping[str, Made]:
    top = make(bert, GLOBAL)
    region = on(top, REGION)
    return {
        "global": top,
        "region": region,
        "user": on(region, USER),
        "head": on(region, HEAD_ONLY),
        "other head": on(region, replace(HEAD_ONLY, seed=5)),
        "alone": make(bert, HEAD_ONLY),
        "on a head": on(make(bert, HEAD_ONLY), USER),
    }


def reader(made: Mapping[str, Made]) -> Callable[[str], Artifact]:
    artifacts = {one.digest: one.artifact for one in made.values()}

    def read(digest: str) -> Artifact:
        if digest not in artifacts:
            raise NotFound(f"no adapter {digest}")
        return artifacts[digest]

    return read


def test_every_generation_in_one_batch_gives_what_peft_gives_on_the_merged_parent(
    bert: Backbone, chain: Mapping[str, Made]
) -> None:
    engine = Engine(lambda _: bert, reader(chain), EngineLimits(cache_bytes=0))
    futures = [(one, engine.classify("acme", bert.fingerprint, one.digest, list(TEXTS))) for one in chain.values()]
    engine.start()
    try:
        for one, future in futures:
            got = future.result(60).probabilities
            wanted = np.stack([one.probabilities(text) for text in TEXTS])
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    finally:
        engine.close()


def test_the_plain_way_gives_the_same_as_peft_on_the_merged_parent(bert: Backbone, chain: Mapping[str, Made]) -> None:
    ancestors = (chain["region"].artifact, chain["global"].artifact)
    for name in ("user", "head"):
        got = adapted_features(bert, chain[name].artifact, TEXTS, ancestors=ancestors).numpy()
        wanted = torch.cat([chain[name].vector(text) for text in TEXTS]).numpy()
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    bare = bert.embed(list(TEXTS)).numpy()
    assert np.abs(got - bare).max() > 1e-2


def test_merged_weights_are_those_of_the_whole_chain(bert: Backbone, chain: Mapping[str, Made]) -> None:
    merged = merged_weights(bert, chain["user"].artifact, (chain["region"].artifact, chain["global"].artifact))
    model = unhooked(bert)
    model.load_state_dict(merged)
    twin = replace(chain["user"], model=model)
    for text in TEXTS:
        torch.testing.assert_close(twin.vector(text), chain["user"].vector(text), rtol=1e-5, atol=1e-5)


def test_ancestors_that_are_missing_or_others_are_refused(bert: Backbone, chain: Mapping[str, Made]) -> None:
    user, region, top = (chain[name].artifact for name in ("user", "region", "global"))
    for ancestors in ((), (region,), (top, region), (region, top, top)):
        with pytest.raises(ArtifactInvalid, match="stands on"):
            adapted_features(bert, user, TEXTS, ancestors=ancestors)


def cache_of(made: Mapping[str, Made], pool: LoaderPool, nbytes: int = 1 << 24) -> AdapterCache:
    return AdapterCache(reader(made), pool=pool, nbytes=nbytes, meter=Meter())


def test_children_that_have_heads_only_share_the_parents_slot_vectors_and_memory(
    bert: Backbone, chain: Mapping[str, Made]
) -> None:
    pool = LoaderPool(1, "test")
    cache = cache_of(chain, pool)
    places = adaptable(bert)

    def load(name: str) -> LoadedAdapter:
        return cache.load(chain[name].key, bert, places).result(60)

    region = load("region")
    before = cache.nbytes
    one, other = load("head"), load("other head")
    pool.shutdown()
    assert one.delta is region.delta is other.delta
    assert one.body == other.body == region.key
    assert one.domain == other.domain == region.domain
    assert cache.nbytes - before == one.head.nbytes + other.head.nbytes
    cache.offload(float("inf"))
    assert cache.nbytes == 0


def test_a_parent_leaves_memory_after_the_children_that_share_its_updates(
    bert: Backbone, chain: Mapping[str, Made]
) -> None:
    pool = LoaderPool(1, "test")
    places = adaptable(bert)
    room = cache_of(chain, pool)
    for name in ("region", "head", "other head"):
        room.load(chain[name].key, bert, places).result(60)
    # The region on its own parent: one adapter less has room, and it is not the one whose updates are shared.
    cache = cache_of(chain, pool, nbytes=room.nbytes - 1)
    for name in ("region", "head", "other head"):
        cache.load(chain[name].key, bert, places).result(60)
    cache.load(chain["alone"].key, bert, places).result(60)
    pool.shutdown()
    assert cache.get(chain["region"].key) is not None
    assert cache.get(chain["global"].key) is None
    assert cache.nbytes < room.nbytes


def test_a_chain_takes_one_slot_of_the_ranks_together(chain: Mapping[str, Made]) -> None:
    top, region = chain["global"].loaded, None
    assert top.delta is not None
    alone = make(chain["global"].backbone, REGION).loaded
    assert alone.delta is not None
    region = stacked_delta(top.delta, alone.delta)
    assert {rank: len(bucket) for rank, bucket in region.buckets.items()} == {8: len(region.buckets[8])}
    assert region.split == 0


def test_a_parent_that_is_gone_is_told(bert: Backbone, chain: Mapping[str, Made]) -> None:
    pool = LoaderPool(1, "test")
    without = {name: one for name, one in chain.items() if name != "global"}
    loading = cache_of(without, pool).load(chain["user"].key, bert, adaptable(bert))
    with pytest.raises(BlobDamaged, match=chain["global"].digest[:12]):
        loading.result(60)
    pool.shutdown()


def test_a_child_never_answers_on_another_parent(bert: Backbone, chain: Mapping[str, Made]) -> None:
    swapped = {chain["region"].digest: chain["global"].artifact}

    def read(digest: str) -> Artifact:
        return swapped.get(digest, chain["user"].artifact)

    pool = LoaderPool(1, "test")
    cache = AdapterCache(read, pool=pool, nbytes=1 << 24, meter=Meter())
    with pytest.raises(ArtifactInvalid, match="another adapter was read"):
        cache.load(AdapterKey(chain["user"].digest, bert.fingerprint), bert, adaptable(bert)).result(60)
    pool.shutdown()
