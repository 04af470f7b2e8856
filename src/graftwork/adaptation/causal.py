"""The files of a LoRA delta as PEFT, vLLM and LoRAX read them for a causal language model.

Here updates are named by where they are in the bare decoder; those others look for them in the model around it, where
the decoder has a name of its own (`base_model.model.model.layers.0…`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from graftwork.adaptation.strategy import Delta
from graftwork.errors import ArtifactInvalid, Problem

_PREFIX = "base_model.model."
_CONFIG, _TENSORS = "adapter_config.json", "adapter_model.safetensors"


def for_causal(delta: Delta, prefix: str, *, layers: Sequence[str]) -> Delta:
    """A delta of the bare decoder, with the names that the model around it gives.

    Args:
        delta: LoRA's.
        prefix: of the decoder in the model, such as `model.`.
        layers: names of the decoder's layers; where all are adapted alike, modules are named by their last part, as
            others expect it.
    """
    from safetensors.torch import load, save

    tensors = {f"{_PREFIX}{prefix}{_bare(name)}": value for name, value in load(delta.files[_TENSORS]).items()}
    specs = tuple(spec.model_copy(update={"name": f"{_PREFIX}{prefix}{_bare(spec.name)}"}) for spec in delta.tensors)
    config: dict[str, Any] = json.loads(delta.files[_CONFIG])
    config["task_type"] = "CAUSAL_LM"
    config["target_modules"] = _targets(config["target_modules"], layers)
    files = {
        _CONFIG: json.dumps(config, sort_keys=True, indent=2).encode(),
        _TENSORS: save(dict(sorted(tensors.items()))),
    }
    return Delta(delta.split, tuple(sorted(specs, key=lambda spec: spec.name)), files)


def for_decoder(files: Mapping[str, bytes], prefix: str) -> dict[str, bytes]:
    """The same files with the names of the bare decoder, which `Lora.restore` takes.

    Raises:
        ArtifactInvalid: with every tensor that is none of the decoder's.
    """
    from safetensors.torch import load, save

    tensors = load(files[_TENSORS])
    before = f"{_PREFIX}{prefix}"
    strange = [Problem(_TENSORS, f"{name} is not inside {before}") for name in tensors if not name.startswith(before)]
    if strange:
        raise ArtifactInvalid(
            "the LoRA delta is not of this causal language model", problems=strange, remedy="Train it again."
        )
    config: dict[str, Any] = json.loads(files[_CONFIG])
    config["task_type"] = "FEATURE_EXTRACTION"
    renamed = {f"{_PREFIX}{name.removeprefix(before)}": value for name, value in tensors.items()}
    return {_CONFIG: json.dumps(config, sort_keys=True, indent=2).encode(), _TENSORS: save(renamed)}


def _bare(name: str) -> str:
    return name.removeprefix(_PREFIX)


def _targets(modules: Sequence[str], layers: Sequence[str]) -> list[str]:
    """Last parts where every layer has the same ones adapted; otherwise as they are, which PEFT takes for endings."""
    inside = {
        layer: {name.removeprefix(f"{layer}.") for name in modules if name.startswith(f"{layer}.")} for layer in layers
    }
    (first, *others) = inside.values()
    last = {name.rsplit(".", 1)[-1] for name in first}
    if first and all(other == first for other in others) and len(last) == len(first):
        return sorted(last)
    return sorted(modules)
