"""Users of one region, each an adapter on top of the region's: what mixing them costs beside adapters alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.serving.made import head_only, lora
from benchmarks.serving.ours import Steps, steps
from benchmarks.serving.registries import open_backbone
from benchmarks.serving.report import Bar, Table, timed_table
from benchmarks.serving.setting import Setting
from benchmarks.serving.texts import Texts
from benchmarks.serving.timing import Candidate, interleaved
from graftwork.registry.artifact import Artifact
from graftwork.serving.adapters import LoadedAdapter, load_adapter
from graftwork.serving.delta import adaptable
from graftwork.serving.keys import AdapterKey

MOST = 1.3
_ALONE = "LoRA without chains"
_HEADS_ALONE = "heads without chains"
_KIB = 2**10


def run(setting: Setting) -> Iterator[Table]:
    """A table of times of mixed batches, and one of what a user takes of memory."""
    backbone = open_backbone(setting)
    texts = Texts(setting.corpus, backbone.encode)
    region = lora(backbone, 0)
    kinds = {
        _ALONE: [lora(backbone, seed) for seed in range(1, setting.resident + 1)],
        _HEADS_ALONE: [head_only(backbone, seed) for seed in range(1, setting.resident + 1)],
    }
    kinds |= {
        "LoRA on a region": [_child(one, region) for one in kinds[_ALONE]],
        "heads on a region": [_child(one, region) for one in kinds[_HEADS_ALONE]],
    }
    by_digest = {one.digest: one for one in [region, *(each for kind in kinds.values() for each in kind)]}
    with steps(setting, backbone, by_digest.__getitem__, texts) as engine:
        candidates = [_candidate(engine, name, artifacts, setting.rows) for name, artifacts in kinds.items()]
        with torch.inference_mode():
            timings = interleaved(candidates, setting.rounds)
    title = f"batches of {setting.rows} of {setting.resident:,} users x {setting.tokens} tokens, {backbone.dtype_name}"
    table = timed_table(title, timings, {"x LoRA alone": _ALONE, "x heads alone": _HEADS_ALONE})
    for name in ("LoRA on a region", "heads on a region"):
        for part in (name, f"{name}, whole step"):
            alone = _ALONE if part == name else f"{_ALONE}, whole step"
            table.bars.append(Bar(f"chains: {part}, beside {alone}", timings.ratio(part, alone), MOST))
    yield table
    places = adaptable(backbone)
    load = partial(load_adapter, backbone=backbone, places=places)
    parent = load(AdapterKey(region.digest, backbone.fingerprint), region)
    sizes = Table("memory of one user", ["stored, KiB", "own in host memory, KiB", "own in slots, KiB"])
    for name, artifacts in kinds.items():
        one = artifacts[0]
        on = parent if one.manifest.parent else None
        loaded: LoadedAdapter = load(AdapterKey(one.digest, backbone.fingerprint), one, parent=on)
        own = 0 if loaded.shares else loaded.delta_bytes
        sizes.lines[name] = [one.size_bytes / _KIB, (loaded.head.nbytes + own) / _KIB, own / _KIB]
    yield sizes


def _child(artifact: Artifact, parent: Artifact) -> Artifact:
    changes = {"parent": parent.digest, "split": parent.manifest.split}
    return Artifact(artifact.manifest.model_copy(update=changes), artifact.files)


def _candidate(engine: Steps, name: str, artifacts: list[Artifact], rows: int) -> Candidate:
    """A batch of users spread over all of them; every one was asked before."""
    digests = [one.digest for one in artifacts]
    engine.warm(digests)
    return engine.batch(name, digests[:: max(1, len(digests) // rows)][:rows])
