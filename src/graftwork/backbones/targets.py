"""Which linear layers of a backbone a low-rank adapter goes into."""

from __future__ import annotations

from typing import TypedDict

from torch import nn

from graftwork.backbones.backbone import Backbone
from graftwork.errors import ModelUnsupported, Problem

# Query and value (arXiv 2106.09685), or the one projection that holds them where they are fused.
_QUERY_AND_VALUE = frozenset(
    (
        *("query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "q", "v", "query_proj", "value_proj"),
        *("c_attn", "Wqkv", "qkv_proj", "qkv", "query_key_value", "in_proj"),
    )
)


class LinearTargets(TypedDict):
    """Names as PEFT's `target_modules` takes them: each matches the modules whose dotted name ends with it.

    Attributes:
        attention: the projections to query and value.
        all: every linear layer inside the stack.
    """

    attention: tuple[str, ...]
    all: tuple[str, ...]


def linear_targets(backbone: Backbone) -> LinearTargets:
    """Name the linear layers of a backbone by the shortest endings that match nothing outside its layers.

    Raises:
        ModelUnsupported: if the layers hold no linear layer.

    Example:
        >>> linear_targets(bert)["attention"]       # doctest: +SKIP
        ('query', 'value')
        >>> linear_targets(gpt2)["all"]             # doctest: +SKIP
        ('c_attn', 'c_fc', 'c_proj')
    """
    linear, inside = _linear_layers(backbone)
    prefixes = tuple(f"{name}." for name in backbone.layer_names)
    outside = [name for name in linear if not name.startswith(prefixes)]
    if not inside:
        raise ModelUnsupported(
            "there is nothing in this model that a low-rank adapter could be put into",
            problems=[Problem("model", f"no linear layer inside {', '.join(backbone.layer_names[:1])} and above")],
            remedy="Train with feature extraction, partial or full fine-tuning on this base.",
        )
    everything = tuple(sorted({_ending(name, outside) for name in inside}))
    attention = tuple(name for name in everything if name.rsplit(".", 1)[-1] in _QUERY_AND_VALUE)
    return LinearTargets(attention=attention or everything, all=everything)


def has_linear_layers(backbone: Backbone) -> bool:
    """Whether there is anything that a low-rank adapter could be put into."""
    return bool(_linear_layers(backbone)[1])


def _linear_layers(backbone: Backbone) -> tuple[list[str], list[str]]:
    """Names of all linear layers of the model, and of those inside its layers."""
    from transformers.pytorch_utils import Conv1D

    kinds = (nn.Linear, Conv1D)
    linear = [name for name, module in backbone.model.named_modules() if isinstance(module, kinds)]
    prefixes = tuple(f"{name}." for name in backbone.layer_names)
    return linear, [name for name in linear if name.startswith(prefixes)]


def _ending(name: str, outside: list[str]) -> str:
    parts = name.split(".")
    endings = (".".join(parts[-length:]) for length in range(1, len(parts) + 1))
    return next(ending for ending in endings if not any(f".{other}".endswith(f".{ending}") for other in outside))
