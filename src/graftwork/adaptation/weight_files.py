"""The files of tuned weights: written with the same bytes for the same values, and read strictly.

`adapter_config.json` tells the kind, the encoding and the first tuned layer; `adapter_model.safetensors` holds each
changed parameter's parts as `name.part` (see `changes.Change`). Shapes and dtypes are judged from the header, against
the base's own parameters, before anything is allocated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import torch

from graftwork.adaptation.changes import DIFFERENCE, ROWS, SCALE, SIGN, VALUE, Change, Encoding
from graftwork.adaptation.strategy import Delta
from graftwork.errors import ArtifactInvalid, Problem
from graftwork.registry.artifact import DELTA, DELTA_CONFIG
from graftwork.registry.manifest import TensorSpec
from graftwork.registry.safetensors_header import HeaderInvalid, TensorPlace, read_header

if TYPE_CHECKING:
    from graftwork.adaptation.parameters import ParameterPlace

PEFT_TYPE = "GRAFTWORK_WEIGHTS"
_FORMAT = 1
_DTYPES = {ROWS: "I32", SIGN: "U8", SCALE: "F32", DIFFERENCE: "F16", VALUE: "F32"}


@dataclass(frozen=True)
class StoredWeights:
    """What the files hold.

    Attributes:
        split: index of the first tuned layer.
        encoding: how changes are kept.
        changes: by the parameter's name.
    """

    split: int
    encoding: Encoding
    changes: Mapping[str, Change]


def write_weights(weights: StoredWeights, *, layers: int) -> Delta:
    """Both files; none when nothing changed, and then the split is above the last of `layers`."""
    from safetensors.torch import save

    if not weights.changes:
        return Delta(layers, (), {})
    tensors = {
        f"{name}.{part}": weights.changes[name].parts[part].detach().cpu()
        for name in sorted(weights.changes)
        for part in sorted(weights.changes[name].parts)
    }
    specs = tuple(
        TensorSpec.model_validate(
            {"name": name, "shape": tuple(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
        )
        for name, tensor in tensors.items()
    )
    config = {"peft_type": PEFT_TYPE, "format": _FORMAT, "encoding": weights.encoding, "split": weights.split}
    files = {DELTA_CONFIG: json.dumps(config, sort_keys=True, indent=2).encode(), DELTA: save(tensors)}
    return Delta(weights.split, specs, files)


def read_weights(
    config: bytes, content: bytes, places: Mapping[str, ParameterPlace], layer_names: tuple[str, ...]
) -> StoredWeights:
    """Read both files; every tensor must be wanted, and every change be whole.

    Args:
        config: `adapter_config.json`.
        content: `adapter_model.safetensors`.
        places: the base's parameters.
        layer_names: dotted names of the base's layers, bottom first.

    Raises:
        ArtifactInvalid: with every problem found.
    """
    from safetensors.torch import load

    split, encoding = _read_config(config, len(layer_names))
    try:
        header = read_header(content)
    except HeaderInvalid as error:
        raise _refused([Problem(DELTA, what) for what in error.problems]) from error
    found: dict[str, dict[str, TensorPlace]] = {}
    for name, tensor in header.tensors.items():
        parameter, _, part = name.rpartition(".")
        found.setdefault(parameter, {})[part] = tensor
    frozen = tuple(f"{layer}." for layer in layer_names[:split])
    problems = []
    for name, parts in found.items():
        where = f"{DELTA}, {name}"
        if name not in places:
            problems.append(Problem(where, "is no parameter of the base model"))
        elif name.startswith(frozen):
            problems.append(
                Problem(where, f"is in a layer below {split}, where {DELTA_CONFIG} says that none is tuned")
            )
        else:
            shape = tuple(places[name].parameter.shape)
            problems += [Problem(where, wrong) for wrong in _differences(parts, shape, encoding)]
    problems += [Problem(DELTA, "holds no change")] if not found else []
    if problems:
        raise _refused(problems)
    tensors = load(content)
    changes = {name: Change({part: tensors[f"{name}.{part}"] for part in parts}) for name, parts in found.items()}
    problems = [
        Problem(f"{DELTA}, {name}.{ROWS}", f"are not rising places among {len(places[name].parameter)} rows")
        for name, change in changes.items()
        if ROWS in change.parts and not _rising(change.parts[ROWS], len(places[name].parameter))
    ]
    if problems:
        raise _refused(problems)
    return StoredWeights(split, encoding, changes)


def _read_config(content: bytes, layers: int) -> tuple[int, Encoding]:
    try:
        config: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _refused([Problem(DELTA_CONFIG, f"is not JSON: {error}")]) from error
    if not isinstance(config, dict):
        raise _refused([Problem(DELTA_CONFIG, "is no JSON object")])
    sound = {
        "peft_type": config.get("peft_type") == PEFT_TYPE,
        "format": type(config.get("format")) is int and config["format"] == _FORMAT,
        "encoding": config.get("encoding") in get_args(Encoding),
        "split": type(config.get("split")) is int and 0 <= config["split"] < layers,
    }
    wrong = [name for name, good in sound.items() if not good] + sorted(set(config) - set(sound))
    if wrong:
        told = {name: json.dumps(config.get(name))[:80] for name in wrong}
        raise _refused([Problem(f"{DELTA_CONFIG}, {name}", f"is not understood: {told[name]}") for name in wrong])
    return config["split"], config["encoding"]


def _differences(parts: Mapping[str, TensorPlace], shape: tuple[int, ...], encoding: Encoding) -> list[str]:
    """How the parts of a change differ from what a parameter of this shape must have."""
    matrix = len(shape) > 1
    changed = shape[0] if shape else 1
    if ROWS in parts and matrix:
        rows = parts[ROWS].shape
        if len(rows) != 1 or not 0 < rows[0] < changed:
            return [f"{ROWS} has the shape {list(rows)}; some of {changed} rows are expected"]
        changed = rows[0]
    wanted: dict[str, tuple[int, ...]] = {ROWS: (changed,)} if ROWS in parts and matrix else {}
    if encoding == "one-bit" and matrix:
        columns = 1
        for size in shape[1:]:
            columns *= size
        wanted |= {SIGN: (changed, -(-columns // 8)), SCALE: (changed,)}
    else:
        wanted[VALUE if encoding == "lossless" else DIFFERENCE] = (changed, *shape[1:]) if matrix else shape
    problems = [f"{part} is missing" for part in sorted(wanted.keys() - parts.keys())]
    problems += [f"{part} is left over: nothing would use it" for part in sorted(parts.keys() - wanted.keys())]
    for part in sorted(wanted.keys() & parts.keys()):
        if parts[part].shape != wanted[part]:
            problems.append(f"{part} has the shape {list(parts[part].shape)} instead of {list(wanted[part])}")
        if parts[part].dtype != _DTYPES[part]:
            problems.append(f"{part} is {parts[part].dtype} instead of {_DTYPES[part]}")
    return problems


def _rising(rows: torch.Tensor, count: int) -> bool:
    return bool(rows[0] >= 0 and rows[-1] < count and (rows[1:] > rows[:-1]).all())


def _refused(problems: list[Problem]) -> ArtifactInvalid:
    return ArtifactInvalid(
        "the adapter is refused: its tuned weights do not fit the base model",
        problems=problems,
        remedy="Train and publish it again on this base; it is never served in part.",
    )
