"""A backbone's own parameters: where each is used, where it first acts, and putting another in its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from graftwork.backbones.backbone import Backbone


@dataclass(frozen=True, slots=True)
class ParameterPlace:
    """A parameter of the base, and every module that uses it.

    Attributes:
        name: its dotted name in the model; the first one, when it is shared.
        parameter: the base's own.
        owners: modules and the names they have it under.
    """

    name: str
    parameter: nn.Parameter
    owners: tuple[tuple[nn.Module, str], ...]

    def put(self, tensor: Tensor) -> None:
        """Let its modules use another tensor, of the same shape and dtype; gradients flow to it."""
        for module, leaf in self.owners:
            # As torch.func.functional_call does it: `setattr` takes nothing but a Parameter, which has no history.
            module._parameters[leaf] = cast(nn.Parameter, tensor)

    def restore(self) -> None:
        """Give them the base's own back."""
        self.put(self.parameter)


def parameter_places(backbone: Backbone) -> dict[str, ParameterPlace]:
    """Every parameter by name, each once however many modules share it."""
    names: dict[int, str] = {}
    owners: dict[str, list[tuple[nn.Module, str]]] = {}
    parameters: dict[str, nn.Parameter] = {}
    for prefix, module in backbone.model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            name = names.setdefault(id(parameter), f"{prefix}.{leaf}" if prefix else leaf)
            owners.setdefault(name, []).append((module, leaf))
            parameters[name] = parameter
    return {name: ParameterPlace(name, parameters[name], tuple(owners[name])) for name in owners}


def first_layers(backbone: Backbone, places: Mapping[str, ParameterPlace]) -> dict[str, int]:
    """The layer in which each parameter first acts; those that the hidden states do not need are left out.

    Autograd tells it, for any architecture: a sample is run, and what the input of layer k depends on acts below
    it. So an embedding is at -1, a norm above the last layer belongs to that layer, and a table that all layers read
    (DeBERTa's relative positions) to the first that does.

    Args:
        backbone: the bare backbone; nothing else may run it at the time.
        places: its parameters, from `parameter_places`.
    """
    found: dict[str, int] = {}
    with _asking_for_gradients(backbone.model):
        names = {id(place.parameter): name for name, place in places.items()}
        seen: set[Node | None] = {None}
        for split, hidden in enumerate(backbone.states(backbone.sample)):
            for leaf in _new_leaves(hidden, seen):
                if leaf in names:
                    found.setdefault(names[leaf], split - 1)
    return found


@contextmanager
def _asking_for_gradients(model: nn.Module) -> Iterator[None]:
    model.requires_grad_(True)
    try:
        # Also for callers who switched gradients off: without a graph nothing would be found.
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        model.requires_grad_(False)


def _new_leaves(output: Tensor, seen: set[Node | None]) -> set[int]:
    """Identities of the tensors that a result depends on, read off its graph; no gradient is computed.

    Args:
        output: the result.
        seen: nodes that are passed over; those that were found are added.
    """
    waiting = [output.grad_fn]
    leaves: set[int] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        waiting += [following for following, _ in node.next_functions]
    return leaves
