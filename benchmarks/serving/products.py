"""A physical limit: the matrix products of a network's linear layers, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from graftwork.backbones.backbone import Backbone


def products_alone(backbone: Backbone, tokens: int) -> Callable[[], None]:
    """A call that multiplies as many tokens by the weights of every layer, into memory that is there already.

    No attention, no activation, no normalisation, no adapter: what computes these layers for so many tokens in this
    dtype has to do at least this.
    """
    found = []
    for module in (module for layer in backbone.layers for module in layer.modules()):
        if isinstance(module, nn.Linear):
            weight = module.weight.data.t()
            inputs = torch.randn(tokens, weight.shape[0], dtype=weight.dtype)
            found.append((inputs, weight, torch.empty(tokens, weight.shape[1], dtype=weight.dtype)))

    def call() -> None:
        for inputs, weight, outputs in found:
            torch.mm(inputs, weight, out=outputs)

    return call
