"""Reading the header of a safetensors file ourselves, before anything trusts or allocates by it.

A safetensors file is eight bytes with the header's length N (little-endian), N bytes of JSON that give each tensor's
dtype, shape and place, and the tensors' bytes. The readers in use take the last of two tensors of one name and differ
in what else they let pass; this one lets nothing pass that is not sound.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

MAX_HEADER = 100_000_000
"""Bytes a header may have: the bound of the safetensors library itself."""
_MAX_DIMENSIONS = 32
_REMEMBERED_BYTES, _REMEMBERED = 32 * 1024, 64
"""Headers up to so many bytes are remembered, the last so many: adapters of one recipe have the same."""

_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


class HeaderInvalid(Exception):
    """The header is unsound; `problems` says all the ways."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Where a tensor lies.

    Attributes:
        dtype: safetensors' name, such as `F32`.
        shape: sizes.
        begin: first byte, counted from the start of the file.
        end: byte after the last one.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """A sound header.

    Attributes:
        size: bytes before the first tensor, the eight of the length included.
        tensors: by name, in the order in which they lie in the file, without holes between them.
        metadata: the free texts of `__metadata__`.
    """

    size: int
    tensors: Mapping[str, TensorPlace]
    metadata: Mapping[str, str]


def header_length(first: bytes, total: int, *, limit: int = MAX_HEADER) -> int:
    """Length of the JSON part, from the first eight bytes of a file of `total` bytes.

    Raises:
        HeaderInvalid: if the file is too short for it, or it is over the limit.
    """
    if len(first) < 8:
        raise HeaderInvalid(f"has {total} bytes, too few for a safetensors file")
    length = int.from_bytes(first[:8], "little")
    if length > min(limit, total - 8) and (first.startswith(b"PK") or (first[0] == 0x80 and first[1] in range(2, 6))):
        raise HeaderInvalid("is a pickle or an archive, whatever its name says")
    if length > limit:
        raise HeaderInvalid(f"says that its header has {length} bytes; {limit} are allowed")
    if length > total - 8:
        raise HeaderInvalid(f"says that its header has {length} bytes, but only {total - 8} follow: was it cut short?")
    return length


def parse_header(text: bytes, total: int) -> Header:
    """Read the JSON part of a header.

    Args:
        text: the JSON part, all of `header_length()` bytes.
        total: bytes of the whole file.

    Raises:
        HeaderInvalid: with every problem found.
    """
    return _remembered(text, total) if len(text) <= _REMEMBERED_BYTES else _parsed(text, total)


def _parsed(text: bytes, total: int) -> Header:
    if not text.startswith(b"{"):
        raise HeaderInvalid("has a header that is no JSON object")
    try:
        content = json.loads(text.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise HeaderInvalid(f"has a header that cannot be read: {error}") from error
    free = content.pop("__metadata__", {})
    problems = []
    if not isinstance(free, dict) or not all(isinstance(value, str) for value in free.values()):
        problems.append("has metadata that are not texts")
    places: dict[str, TensorPlace] = {}
    for name, entry in content.items():
        try:
            places[name] = _place(entry, 8 + len(text))
        except HeaderInvalid as error:
            problems.append(f"tensor {_shown(name)} {error}")
    ordered = sorted(places.items(), key=lambda item: (item[1].begin, item[1].end, item[0]))
    if not problems:
        problems += _contiguous(ordered, 8 + len(text), total)
    if problems:
        raise HeaderInvalid(*problems)
    return Header(8 + len(text), MappingProxyType(dict(ordered)), MappingProxyType(free))


_remembered = lru_cache(_REMEMBERED)(_parsed)


def read_header(data: bytes, *, limit: int = MAX_HEADER) -> Header:
    """Read the header of a file that is in memory.

    Raises:
        HeaderInvalid: with every problem found.
    """
    length = header_length(data[:8], len(data), limit=limit)
    return parse_header(data[8 : 8 + length], len(data))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{_shown(name)} occurs twice")
        found[name] = value
    return found


def _place(entry: Any, start: int) -> TensorPlace:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise HeaderInvalid("is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise HeaderInvalid(f"has the unknown dtype {_shown(dtype)}")
    if not _naturals(shape) or len(shape) > _MAX_DIMENSIONS:
        raise HeaderInvalid("has a shape that is no (short) list of sizes")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise HeaderInvalid("has data_offsets that are no pair of places in order")
    bits = math.prod(shape) * _BITS[dtype]
    if bits % 8 or bits // 8 != offsets[1] - offsets[0]:
        raise HeaderInvalid(f"of {dtype} {shape} cannot have {offsets[1] - offsets[0]} bytes")
    return TensorPlace(dtype, tuple(shape), start + offsets[0], start + offsets[1])


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _contiguous(ordered: list[tuple[str, TensorPlace]], start: int, total: int) -> list[str]:
    problems = []
    for name, place in ordered:
        if place.begin < start:
            problems.append(f"tensor {_shown(name)} overlaps the one before it")
        elif place.begin > start:
            problems.append(f"has {place.begin - start} bytes before tensor {_shown(name)} that belong to nothing")
        start = max(start, place.end)
    if start > total:
        problems.append(f"should have {start} bytes and has {total}: it was cut short")
    elif start < total:
        problems.append(f"has {total - start} bytes after its last tensor that belong to nothing")
    return problems


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."
