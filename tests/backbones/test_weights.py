"""Safetensors files are read without trusting a byte of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from graftwork.backbones.weights import main_dtype, read_header, read_tensors, sum_tensors

TENSORS = {"a": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}
SOUND = save(TENSORS)


def crafted(header: object, body: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + body


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights") / "model.safetensors"


def test_tensors_are_listed_and_hashed(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    tensors, problems = read_tensors(tmp_path)
    assert problems == []
    assert [(t.name, t.dtype, t.shape, t.size) for t in tensors] == [("a", "F32", (2, 3), 24), ("b", "BF16", (4,), 8)]
    sums = sum_tensors(tensors)
    assert sums["a"].sha256 == hashlib.sha256(np.arange(6, dtype="<f4").tobytes()).hexdigest()
    assert all(total.finite for total in sums.values())
    assert main_dtype(tensors) == "F32"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_found(tmp_path: Path, dtype: torch.dtype, value: float) -> None:
    broken = torch.zeros(5, dtype=dtype)
    broken[3] = value
    largest = torch.full((2,), torch.finfo(dtype).max, dtype=dtype)
    save_file({"broken": broken, "sound": largest, "count": torch.tensor([3])}, tmp_path / "model.safetensors")
    sums = sum_tensors(read_tensors(tmp_path)[0])
    assert {name: total.finite for name, total in sums.items()} == {"broken": False, "sound": True, "count": True}


@given(st.integers(0, len(SOUND) - 1))
def test_a_file_cut_off_anywhere_is_found(scratch: Path, length: int) -> None:
    scratch.write_bytes(SOUND[:length])
    _, wrong = read_header(scratch)
    assert len(wrong) == 1
    assert "cut off" in wrong[0]


@given(st.integers(0, 300), st.binary(min_size=1, max_size=8))
def test_no_damage_to_a_header_escapes_as_an_exception(scratch: Path, place: int, damage: bytes) -> None:
    scratch.write_bytes(SOUND[:place] + damage + SOUND[place + len(damage) :])
    tensors, wrong = read_header(scratch)
    assert wrong or all(tensor.start + tensor.size <= scratch.stat().st_size for tensor in tensors)


F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\x80\x04\x95 pickle", "looks like a pickle"),
        (b"PK\x03\x04 an old torch file", "looks like a pickle or a zip"),
        ((2**63).to_bytes(8, "little") + b"{}", "header of 9223372036854775808 bytes"),
        (crafted(b"[]"), "not an object"),
        (crafted(b"{not json"), "malformed"),
        (crafted(b'{"a": 3}'), "malformed"),
        (
            crafted(
                b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
                bytes(4),
            ),
            "names given twice",
        ),
        (crafted({"a": F32 | {"shape": [-1]}}, bytes(4)), "whole numbers from 0"),
        (crafted({"a": F32 | {"shape": [10**6]}}, bytes(4)), "4 bytes do not make F32 of shape [1000000]"),
        (crafted({"a": F32 | {"dtype": "O"}}, bytes(4)), "unknown dtype 'O'"),
        (crafted({"a": F32, "b": F32}, bytes(8)), "b begins at byte"),
        (crafted({"a": F32}, bytes(9)), "has bytes left over"),
        (crafted({"a": F32}, bytes(3)), "cut off"),
    ],
)
def test_malformed_files_are_told(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    _, problems = read_tensors(tmp_path)
    assert [told in problem.what for problem in problems] == [True], problems
    assert problems[0].where == "model.safetensors"


def test_an_index_is_followed_and_kept_to_its_folder(tmp_path: Path) -> None:
    def index(**files: str) -> list[str]:
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
        return [problem.what for problem in read_tensors(tmp_path)[1]]

    save_file({"a": TENSORS["a"]}, tmp_path / "one.safetensors")
    save_file({"b": TENSORS["b"]}, tmp_path / "two.safetensors")
    assert index(a="one.safetensors", b="two.safetensors") == []
    assert [tensor.name for tensor in read_tensors(tmp_path)[0]] == ["a", "b"]
    assert index(a="three.safetensors") == ["is missing, although model.safetensors.index.json names it"]
    assert "not a safetensors file in this folder" in index(a="../one.safetensors")[0]
    save_file({"a": TENSORS["a"]}, tmp_path / "two.safetensors")
    assert index(a="one.safetensors", b="two.safetensors") == ["is in more than one weight file"]
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    assert "is not an index of weights" in read_tensors(tmp_path)[1][0].what
