from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from graftwork.registry.safetensors_header import HeaderInvalid, read_header


def file(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(begin: int, end: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape or [(end - begin) // 4], "data_offsets": [begin, end]}


def test_what_the_library_writes_is_read() -> None:
    tensors: dict[str, np.ndarray[Any, Any]] = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.zeros((0, 4), np.float16),
        "scalar": np.array(7, np.int64),
    }
    content = save(tensors, metadata={"format": "pt"})
    header = read_header(content)
    assert header.metadata == {"format": "pt"}
    assert {name: place.shape for name, place in header.tensors.items()} == {n: t.shape for n, t in tensors.items()}
    place = header.tensors["b"]
    assert np.frombuffer(content[place.begin : place.end], np.float32).tolist() == list(range(6))
    assert header.tensors["scalar"].dtype == "I64"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 0 bytes, too few"),
        (b"1234567", "too few"),
        (file({}, length=2**63), "says that its header has 9223372036854775808 bytes"),
        (file({}, length=3), "but only 2 follow"),
        (pickle.dumps({"weights": [1.0]}, protocol=4), "is a pickle or an archive"),
        (b"PK\x03\x04" + b"\x14\x00\x08\x08" + b"x" * 50, "is a pickle or an archive"),
        (file(b"[]"), "no JSON object"),
        (file(b" {}"), "no JSON object"),
        (file(b"{"), "cannot be read"),
        (file(b'{"a\xff": 1}'), "cannot be read"),
        (file(b'{"a":' + b"[" * 100_000), "cannot be read"),
        (file(b'{"a": ' + b"9" * 5_000 + b"}"), "cannot be read"),
        (
            file(
                b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
                b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
                b"1234",
            ),
            "'a' occurs twice",
        ),
        (file(b'{"a":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}}', b"1234"), "occurs twice"),
        (file({"__metadata__": {"a": 1}}), "metadata that are not texts"),
        (file({"__metadata__": []}), "metadata that are not texts"),
        (file({"a": []}), "not described by"),
        (file({"a": entry(0, 4) | {"more": 1}}, b"1234"), "not described by"),
        (file({"a": entry(0, 4, dtype="F31")}, b"1234"), "unknown dtype 'F31'"),
        (file({"a": entry(0, 4) | {"dtype": ["F32"]}}, b"1234"), "unknown dtype"),
        (file({"a": entry(0, 4, [-1])}, b"1234"), "shape"),
        (file({"a": entry(0, 4, [True])}, b"1234"), "shape"),
        (file({"a": entry(0, 4, [2**70])}, b"1234"), "shape"),
        (file({"a": entry(0, 4, [1] * 33)}, b"1234"), "shape"),
        (file({"a": entry(4, 0, [1])}, b"1234"), "no pair of places"),
        (file({"a": entry(0, 4, [1]) | {"data_offsets": [0]}}, b"1234"), "no pair of places"),
        (file({"a": entry(0, 4, [2**40, 2**40])}, b"1234"), "cannot have 4 bytes"),
        (file({"a": entry(0, 1, [1], "F4")}, b"1"), "cannot have 1 bytes"),
        (file({"a": entry(0, 4), "b": entry(2, 6)}, b"123456"), "'b' overlaps"),
        (file({"a": entry(0, 4), "b": entry(8, 12)}, b"x" * 12), "4 bytes before tensor 'b' that belong to nothing"),
        (file({"a": entry(4, 8)}, b"x" * 8), "belong to nothing"),
        (file({"a": entry(0, 8)}, b"1234"), "was cut short"),
        (file({"a": entry(0, 4)}, b"12345"), "1 bytes after its last tensor"),
    ],
)
def test_nothing_unsound_passes(content: bytes, message: str) -> None:
    with pytest.raises(HeaderInvalid, match=message):
        read_header(content)


def test_a_header_over_the_limit_is_refused_before_it_is_read() -> None:
    content = file({"__metadata__": {"a": "x" * 100}})
    read_header(content)
    with pytest.raises(HeaderInvalid, match="50 are allowed"):
        read_header(content, limit=50)


def test_a_header_whose_length_looks_like_a_pickle_is_none() -> None:
    content = file(b"{}" + b" " * (0x0280 - 2))
    assert content[:2] == b"\x80\x02"
    assert read_header(content).tensors == {}


VALID = save({"a": np.ones((2, 2), np.float32), "b": np.zeros(3, np.float16)})


@given(data=st.data())
def test_what_passes_after_any_damage_the_library_reads_alike(data: st.DataObject) -> None:
    damaged = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(len(damaged) - 3, len(damaged)))])
    try:
        header = read_header(cut)
    except HeaderInvalid:
        return
    read = load(cut)
    assert {name: tuple(tensor.shape) for name, tensor in read.items()} == {
        name: place.shape for name, place in header.tensors.items()
    }
