from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from graftwork.errors import BlobDamaged
from graftwork.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from graftwork.training.randomness import RandomState, own_randomness

CPU = torch.device("cpu")
TENSORS = {
    "step": torch.tensor(3.0),
    "b": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)),
    "half": torch.arange(7).to(torch.bfloat16),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "none": torch.empty(0),
}
STATE = {"steps": 3, "loss": 0.1 + 0.2, "scaler": None, "list": [1, "ä"]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "lora.safetensors"
    write_checkpoint(path, Checkpoint(TENSORS, STATE))
    return path


def test_what_is_read_is_what_was_written_and_others_can_read_it_too(path: Path) -> None:
    found = read_checkpoint(path)
    assert found.state == STATE
    assert list(found.tensors) == sorted(TENSORS)
    others = load_file(path)
    for name, tensor in TENSORS.items():
        for read in (found.tensors[name], others[name]):
            assert read.dtype == tensor.dtype
            assert torch.equal(read, tensor)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_every_flipped_byte_and_every_cut_is_seen(path: Path) -> None:
    whole = path.read_bytes()
    places = [0, 9, len(whole) // 3, len(whole) - 1, *random.Random(0).sample(range(len(whole)), 40)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(bytes(damaged))
        with pytest.raises(BlobDamaged, match=r"lora\.safetensors is no sound checkpoint") as caught:
            read_checkpoint(path)
        assert "without --resume" in caught.value.remedy
    for length in (0, 7, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(BlobDamaged):
            read_checkpoint(path)
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(BlobDamaged):
        read_checkpoint(path)


def draws() -> tuple[float, float, float]:
    return random.gauss(), float(np.random.normal()), float(torch.rand(()))


def test_every_generator_goes_on_where_it_was_and_the_callers_are_not_moved() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = RandomState.now(CPU)
    expected = draws()
    before.restore(CPU)
    with own_randomness(7, CPU):
        first = draws()
        # Each of them keeps the second of two normal numbers for the next call.
        state = RandomState.now(CPU)
        state = RandomState(state.tensors, json.loads(json.dumps(state.content)))
        second = draws()
        state.restore(CPU)
        assert draws() == second
    with own_randomness(7, CPU):
        assert draws() == first
    assert draws() == expected
