"""A prefix as PEFT stores it: `adapter_config.json` and `prompt_embeddings [length, layers * 2 * width]`.

PEFT has a prefix in every layer. A prefix of fewer layers is stored in the same way and belongs to the top ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from graftwork.errors import ArtifactInvalid, Problem
from graftwork.registry.artifact import DELTA, DELTA_CONFIG

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone

NAME = "prompt_embeddings"
PEFT_TYPE = "PREFIX_TUNING"

# Fields that say where a prefix came from or how it was trained: what is stored is always keys and values.
_HARMLESS = frozenset(
    (
        *("auto_mapping", "peft_version", "base_model_name_or_path", "revision", "task_type", "inference_mode"),
        *("prefix_projection", "encoder_hidden_size", "init_weights"),
    )
)


@dataclass(frozen=True)
class StoredPrefix:
    """Keys and values of the top layers of a backbone.

    Attributes:
        keys: `[layers, heads, length, head width]`, in the dtype they are stored in.
        values: the same.
    """

    keys: Tensor
    values: Tensor


def write_prefix(prefix: StoredPrefix) -> dict[str, bytes]:
    """Both files; the same values give the same bytes."""
    from safetensors.torch import save

    layers, heads, length, head_width = prefix.keys.shape
    config = {
        "peft_type": PEFT_TYPE,
        "task_type": "FEATURE_EXTRACTION",
        "inference_mode": True,
        "num_virtual_tokens": length,
        "num_layers": layers,
        "num_attention_heads": heads,
        "token_dim": heads * head_width,
        "num_transformer_submodules": 1,
        "prefix_projection": False,
    }
    return {
        DELTA_CONFIG: json.dumps(config, sort_keys=True, indent=2).encode(),
        DELTA: save({NAME: embeddings_of(prefix)}),
    }


def embeddings_of(prefix: StoredPrefix) -> Tensor:
    """PEFT's matrix `[length, layers * 2 * width]`: for each token and layer the keys of all heads, then the values."""
    import torch

    # [layers, 2, heads, length, head width] -> [length, layers, 2, heads, head width]
    both = torch.stack([prefix.keys, prefix.values], dim=1).permute(3, 0, 1, 2, 4)
    return both.flatten(start_dim=1).contiguous()


def read_prefix(config: bytes, tensors: bytes, backbone: Backbone) -> StoredPrefix:
    """Read both files strictly: everything that would change the answer is honoured or refused.

    Does not run the backbone.

    Raises:
        ArtifactInvalid: if they do not fit the backbone, with every difference.
        ModelUnsupported: if its attention cannot be given a prefix.
    """
    from safetensors.torch import load

    attention = backbone.attention
    settings = json.loads(config)
    problems = _check_config(settings, backbone)
    loaded = load(tensors)
    problems += [Problem(f"{DELTA}, {name}", "is left over") for name in sorted(loaded.keys() - {NAME})]
    if NAME not in loaded:
        problems.append(Problem(f"{DELTA}, {NAME}", "is missing"))
    if problems:
        raise _refused(problems)
    length, layers = settings["num_virtual_tokens"], settings["num_layers"]
    wanted = (length, layers * 2 * attention.width)
    found = tuple(loaded[NAME].shape)
    if found != wanted:
        raise _refused([Problem(f"{DELTA}, {NAME}", f"has the shape {list(found)}, expected is {list(wanted)}")])
    both = loaded[NAME].reshape(length, layers, 2, attention.heads, attention.head_width).permute(1, 2, 3, 0, 4)
    return StoredPrefix(both[:, 0].contiguous(), both[:, 1].contiguous())


def _check_config(settings: Any, backbone: Backbone) -> list[Problem]:
    if not isinstance(settings, dict) or settings.get("peft_type") != PEFT_TYPE:
        return [Problem(DELTA_CONFIG, "is not of a prefix")]
    attention = backbone.attention
    wanted: Mapping[str, int | range] = {
        "num_virtual_tokens": range(1, 1 << 31),
        "num_layers": range(1, backbone.num_layers + 1),
        "num_attention_heads": attention.heads,
        "token_dim": attention.width,
    }
    problems = []
    for name, expected in wanted.items():
        value = settings.get(name)
        sound = type(value) is int and (value in expected if isinstance(expected, range) else value == expected)
        if not sound:
            told = f"a number from 1 to {expected[-1]}" if isinstance(expected, range) else str(expected)
            problems.append(Problem(f"{DELTA_CONFIG}, {name}", f"is {json.dumps(value)[:80]}, expected is {told}"))
    if settings.get("num_transformer_submodules") not in (None, 1):
        problems.append(Problem(f"{DELTA_CONFIG}, num_transformer_submodules", "is not 1"))
    others = settings.keys() - wanted.keys() - _HARMLESS - {"peft_type", "num_transformer_submodules"}
    problems += [
        Problem(f"{DELTA_CONFIG}, {name}", f"is not supported: {json.dumps(settings[name])[:80]}")
        for name in sorted(others)
        if settings[name]
    ]
    return problems


def _refused(problems: list[Problem]) -> ArtifactInvalid:
    return ArtifactInvalid(
        "the adapter is refused: its prefix does not fit the base model",
        problems=problems,
        remedy="Train and publish it again on this base; it is never served in part.",
    )
