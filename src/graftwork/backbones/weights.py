"""The tensors in a folder's safetensors files, read without torch and without trusting a byte of them."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from graftwork.errors import Problem
from graftwork.registry.manifest import DTypeName

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
UNSAFE_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")
FLOAT_DTYPES: dict[str, DTypeName] = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}

_MAX_HEADER = 100 * 2**20
_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1}
_ITEM_BYTES |= {"U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor's bytes lie.

    Attributes:
        name: its name.
        dtype: as safetensors spells it, such as `F32`.
        shape: its dimensions.
        file: the file it is in.
        start: offset of its first byte in the file.
        size: its bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class TensorSum:
    """What hashing a tensor told.

    Attributes:
        sha256: of its bytes.
        finite: no NaN and no infinity in it.
    """

    sha256: str
    finite: bool


def read_tensors(folder: Path) -> tuple[list[StoredTensor], list[Problem]]:
    """List the tensors of a model folder from the headers of its safetensors files.

    Returns:
        The tensors sorted by name, and everything that is wrong with the files.
    """
    files, problems = _weight_files(folder)
    tensors: list[StoredTensor] = []
    for file in files:
        found, wrong = read_header(file)
        tensors += found
        problems += [Problem(file.name, what) for what in wrong]
    names = [tensor.name for tensor in tensors]
    problems += (
        [Problem(name, "is in more than one weight file") for name in sorted({n for n in names if names.count(n) > 1})]
        if len(set(names)) < len(names)
        else []
    )
    return sorted(tensors, key=lambda tensor: tensor.name), problems


def read_header(file: Path) -> tuple[list[StoredTensor], list[str]]:
    """Read the header of one safetensors file and check it against the file's size.

    Returns:
        The tensors in the order of the file, and what is wrong; without tensors when the header cannot be read.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        first = stream.read(8)
        length = int.from_bytes(first, "little")
        if len(first) < 8 or length > min(size - 8, _MAX_HEADER):
            kind = " (it looks like a pickle or a zip archive)" if first[:1] == b"\x80" or first[:2] == b"PK" else ""
            return [], [f"is not a safetensors file, or was cut off: {size} bytes, header of {length} bytes{kind}"]
        raw = stream.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=_unique)
        if not isinstance(header, dict):
            raise TypeError("not an object")
        header.pop("__metadata__", None)
        tensors = [_stored(name, entry, file, 8 + length) for name, entry in header.items()]
    except (ValueError, TypeError, KeyError) as error:
        return [], [f"has a malformed safetensors header: {error}"]
    return tensors, _layout_faults(tensors, data_start=8 + length, size=size)


def sum_tensors(tensors: Sequence[StoredTensor]) -> dict[str, TensorSum]:
    """Hash every tensor and look for values that are not finite; bytes are mapped, not copied, on all cores."""
    maps = {file: _mapped(file) for file in {tensor.file for tensor in tensors}}
    try:
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            sums = pool.map(lambda tensor: _sum(tensor, maps[tensor.file]), tensors)
            return {tensor.name: total for tensor, total in zip(tensors, sums, strict=True)}
    finally:
        for mapped in maps.values():
            mapped.close()


def main_dtype(tensors: Iterable[StoredTensor]) -> str:
    """The floating dtype that most bytes are stored in, as safetensors spells it; empty when there is none."""
    weights: dict[str, int] = {}
    for tensor in tensors:
        if tensor.dtype.startswith(("F", "BF")):
            weights[tensor.dtype] = weights.get(tensor.dtype, 0) + tensor.size
    return max(weights, key=lambda dtype: weights[dtype], default="")


def _weight_files(folder: Path) -> tuple[list[Path], list[Problem]]:
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE], []
    if (folder / INDEX_FILE).is_file():
        return _indexed_files(folder)
    unsafe = sorted({path.name for pattern in UNSAFE_WEIGHTS for path in folder.glob(pattern)})
    if unsafe:
        return [], [
            Problem(
                ", ".join(unsafe),
                "weights that can run code when they are read; load the model with transformers where you trust it and "
                "save it with save_pretrained(folder), which writes safetensors",
            )
        ]
    return [], [Problem(SINGLE_FILE, f"there are no weights: neither this file nor {INDEX_FILE}")]


def _indexed_files(folder: Path) -> tuple[list[Path], list[Problem]]:
    try:
        weight_map = json.loads((folder / INDEX_FILE).read_bytes())["weight_map"]
        names = sorted({str(name) for name in weight_map.values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return [], [Problem(INDEX_FILE, f"is not an index of weights: {error}")]
    problems = []
    for name in names:
        if PurePosixPath(name).name != name or not name.endswith(".safetensors"):
            problems.append(Problem(INDEX_FILE, f"names {name!r}, which is not a safetensors file in this folder"))
        elif not (folder / name).is_file():
            problems.append(Problem(name, f"is missing, although {INDEX_FILE} names it"))
    return ([], problems) if problems else ([folder / name for name in names], [])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"names given twice: {', '.join(twice)}")
    return found


def _stored(name: str, entry: Any, file: Path, data_start: int) -> StoredTensor:
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise ValueError(f"{name}: shape and offsets must be whole numbers from 0")
    if dtype not in _ITEM_BYTES:
        raise ValueError(f"{name}: unknown dtype {dtype!r}")
    if end - begin != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise ValueError(f"{name}: {end - begin} bytes do not make {dtype} of shape {list(shape)}")
    return StoredTensor(name, dtype, shape, file, data_start + begin, end - begin)


def _layout_faults(tensors: Sequence[StoredTensor], *, data_start: int, size: int) -> list[str]:
    expected = data_start
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, tensor.size)):
        if tensor.start != expected:
            return [f"{tensor.name} begins at byte {tensor.start}, the tensor before it ends at byte {expected}"]
        expected += tensor.size
    if expected != size:
        kind = "was cut off" if size < expected else "has bytes left over"
        return [f"{kind}: its header tells of {expected} bytes, the file has {size}"]
    return []


def _mapped(file: Path) -> mmap.mmap:
    with file.open("rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def _sum(tensor: StoredTensor, mapped: mmap.mmap) -> TensorSum:
    with memoryview(mapped) as whole, whole[tensor.start : tensor.start + tensor.size] as content:
        return TensorSum(hashlib.sha256(content).hexdigest(), _finite(tensor.dtype, content))


def _finite(dtype: str, content: memoryview) -> bool:
    import numpy as np

    # numpy has no bfloat16; NaN and infinity are the values whose exponent bits are all set.
    exponents = {"BF16": 0x7F80, "F16": 0x7C00}
    if dtype in exponents:
        bits = np.frombuffer(content, dtype="<u2")
        return not bool(((bits & exponents[dtype]) == exponents[dtype]).any())
    if dtype in ("F32", "F64"):
        return bool(np.isfinite(np.frombuffer(content, dtype=f"<f{_ITEM_BYTES[dtype]}")).all())
    return True
