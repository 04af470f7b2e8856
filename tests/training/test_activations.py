from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from graftwork.backbones.backbone import Backbone
from graftwork.training.activations import Activations
from tests.backbones.tiny import CORPUS

Backbones = Callable[..., Backbone]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_bits_from_memory_and_from_disk(backbone_of: Backbones, tmp_path: Path, dtype: str) -> None:
    backbone = backbone_of("bert", dtype=dtype)
    ids = backbone.encode(CORPUS)
    held = Activations(backbone, ids, split=2)
    spilled = Activations(backbone, ids, split=2, memory=held.bytes_kept - 1, folder=tmp_path)
    assert (held.place, spilled.place) == ("memory", "disk")
    assert held.bytes_kept == spilled.bytes_kept == sum(map(len, ids)) * backbone.width * backbone.dtype.itemsize
    assert held.identity == spilled.identity
    for rows in ([0], [3, 1, 4], list(range(len(ids)))):
        assert torch.equal(held.batch(rows)[0], spilled.batch(rows)[0])
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_costs_time_only(
    backbone_of: Backbones, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    backbone = backbone_of("bert")
    ids = backbone.encode(CORPUS)
    activations = Activations(backbone, ids, split=2, memory=0, folder=tmp_path)
    assert (activations.place, activations.bytes_kept, list(tmp_path.iterdir())) == ("nowhere", 0, [])
    held = Activations(backbone, ids, split=2)
    torch.testing.assert_close(activations.batch([1, 3])[0][1], held.batch([1, 3])[0][1], atol=1e-5, rtol=1e-5)


def test_identity_is_of_the_base_the_split_and_the_tokens(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    ids = backbone.encode(CORPUS)
    identities = {
        Activations(backbone, ids, split=2).identity,
        Activations(backbone, ids, split=1).identity,
        Activations(backbone, ids[1:], split=2).identity,
        Activations(backbone, [ids[1], ids[0], *ids[2:]], split=2).identity,
        Activations(backbone_of("bert", dtype="bfloat16"), ids, split=2).identity,
        Activations(backbone_of("roberta"), ids, split=2).identity,
    }
    assert len(identities) == 6
    assert Activations(backbone_of("bert"), ids, split=2).identity in identities
