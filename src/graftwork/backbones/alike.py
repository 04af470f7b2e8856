"""Layers that are alike, and leaving out all but a few of them: what equal layers take needs counting once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from torch import nn


class LeftOut(nn.Module):
    """Stands where a layer was left out, hands on what it receives, and holds no parameter.

    It keeps its place in the stack, so names and numbers of the layers stay what they are.

    Args:
        like: a layer of its kind that is there and runs before it.
    """

    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        self._like = (like,)  # in a tuple, so that it is no part of this module
        self._extras: tuple[Any, ...] | None = None
        self._watching = like.register_forward_hook(self._note)

    @property
    def like(self) -> nn.Module:
        """The layer it stands in for."""
        return self._like[0]

    def let_go(self) -> None:
        """Leave the layer it stood in for as it was."""
        self._watching.remove()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The hidden states as they came; whatever else such a layer returns is what its like returned."""
        hidden = args[0] if args else kwargs["hidden_states"]
        return hidden if self._extras is None else (hidden, *self._extras)

    def __getattr__(self, name: str) -> Any:
        # Models ask their layers for facts such as `attention_type`.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_like"][0], name)

    def _note(self, _layer: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        self._extras = tuple(output[1:]) if isinstance(output, tuple) else None


def layer_list(model: nn.Module, count: int) -> tuple[str, nn.ModuleList] | None:
    """The one outermost list of `count` modules in a model and its name; None when it cannot be told from others."""
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    }
    outermost = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    return (outermost[0], lists[outermost[0]]) if len(outermost) == 1 else None


def layer_kinds(layers: Sequence[nn.Module], config: Any) -> list[Hashable]:
    """For each layer what it is made of: layers that are equal in it do the same work.

    Args:
        layers: the layers, bottom first.
        config: the model's transformers configuration, which may tell of a type for each of them.
    """
    types = getattr(config, "layer_types", None) or [None] * len(layers)
    return [(types[index], _structure(layer, index)) for index, layer in enumerate(layers)]


def _structure(layer: nn.Module, index: int) -> Hashable:
    return tuple((name, type(module), _facts(module, index), _shapes(module)) for name, module in layer.named_modules())


def _facts(module: nn.Module, index: int) -> Hashable:
    """Plain values that a module was made with, but for the number of its layer."""
    return tuple(
        (name, value)
        for name, value in sorted(vars(module).items())
        if isinstance(value, (bool, int, float, str)) and not (value == index and ("layer" in name or "idx" in name))
    )


def _shapes(module: nn.Module) -> Hashable:
    tensors = (*module._parameters.items(), *module._buffers.items())
    return tuple((name, tuple(t.shape), t.dtype) for name, t in tensors if t is not None)
