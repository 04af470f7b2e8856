"""One file that holds everything a run needs to go on: tensors as safetensors, the rest as JSON in its header.

The file is written whole or not at all, and a checksum over all of it, the JSON included, tells damage from sound
bytes.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftwork.errors import BlobDamaged
from graftwork.registry.durable import write_file

FORMAT = 1
_DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.uint8: "U8",
}


@dataclass(frozen=True)
class Checkpoint:
    """State of a run.

    Attributes:
        tensors: by name, on the CPU.
        state: what JSON holds.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any]


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write it in place of the one before: temporary file, fsync, rename.

    Raises:
        StorageFull: if there is no space; the one before is still there.
        StorageError: if it cannot be written for another reason.
    """
    tensors = {name: checkpoint.tensors[name].detach().contiguous() for name in sorted(checkpoint.tensors)}
    state = json.dumps({"format": FORMAT, **checkpoint.state}, sort_keys=True)
    write_file(path, _chunks(tensors, state), staging=path.parent)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one back; every tensor owns its memory.

    Raises:
        BlobDamaged: if it is cut short, changed, or something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Cloned: kernels may round otherwise on memory that is aligned otherwise.
            tensors = {name: file.get_tensor(name).clone() for name in sorted(file.keys())}
        state: dict[str, Any] = json.loads(metadata["state"])
        sound = metadata["crc32"] == _checksum(tensors, metadata["state"]) and state.pop("format") == FORMAT
    except (SafetensorError, OSError, KeyError, ValueError, AttributeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if not sound:
        raise _damaged(path, "its bytes are not those that were written")
    return Checkpoint(tensors, state)


def _damaged(path: Path, reason: str) -> BlobDamaged:
    return BlobDamaged(
        f"{path} is no sound checkpoint ({' '.join(reason.split())[:200]})",
        remedy="Train from the beginning, without --resume.",
    )


def _chunks(tensors: Mapping[str, Tensor], state: str) -> Iterator[bytes | memoryview]:
    """The file in parts, so that no second copy of all tensors is in memory."""
    header: dict[str, Any] = {"__metadata__": {"crc32": _checksum(tensors, state), "state": state}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    yield len(encoded).to_bytes(8, "little")
    yield encoded
    yield from map(_bytes, tensors.values())


def _checksum(tensors: Mapping[str, Tensor], state: str) -> str:
    """Against damage, not against malice: SHA-256 would take nine times as long, more than all of the writing."""
    checksum = zlib.crc32(state.encode())
    for name, tensor in tensors.items():
        checksum = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode(), checksum)
        checksum = zlib.crc32(_bytes(tensor), checksum)
    return f"{checksum:08x}"


def _bytes(tensor: Tensor) -> memoryview:
    flat: NDArray[np.uint8] = tensor.reshape(-1).view(torch.uint8).numpy()
    return flat.data
