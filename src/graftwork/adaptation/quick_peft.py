"""What PEFT does for LoRA, with less around it: a quicker import, and fewer passes over what a layer gives."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_UNUSED = "bitsandbytes"


@contextmanager
def without_bitsandbytes() -> Iterator[None]:
    """Let PEFT find no bitsandbytes in the block, unless it is imported already.

    PEFT imports it wherever it is installed, and with it PyTorch's compiler, which takes a second. It is for layers of
    bitsandbytes' own classes; a base in few bits has ours (`backbones.quantized`).
    """
    if _UNUSED in sys.modules:
        yield
        return
    sys.modules[_UNUSED] = None  # type: ignore[assignment] # what Python takes for "cannot be imported"
    try:
        yield
    finally:
        del sys.modules[_UNUSED]
        from peft import import_utils

        import_utils.is_bnb_available.cache_clear()
        import_utils.is_bnb_4bit_available.cache_clear()


def add_in_place(model: nn.Module) -> None:
    """Let PEFT's LoRA layers in a model add their update to the base layer's output where it is.

    As PEFT writes it, the update is a tensor of its own, its scaled form another and the sum a third, forwards and
    backwards. The result is the same up to rounding.
    """
    from peft.tuners.lora.layer import Linear

    for module in model.modules():
        if type(module) is Linear:
            module.forward = _adding_in_place(module)


def _adding_in_place(layer: Any) -> Callable[..., Tensor]:
    plain: Callable[..., Tensor] = layer.forward

    def forward(inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        # Other dtypes are rounded in an order of their own.
        if inputs.dtype != a.dtype or torch.is_autocast_enabled(inputs.device.type):
            return plain(inputs, *args, **kwargs)
        # In two dimensions: of more, autograd would copy the output to keep track of the part that is written to.
        rows = inputs.reshape(-1, inputs.shape[-1])
        output: Tensor = layer.base_layer(rows, *args, **kwargs)
        low = nn.functional.linear(layer.lora_dropout["default"](rows), a)
        output.addmm_(low, b.T, alpha=layer.scaling["default"])
        return output.view(*inputs.shape[:-1], -1)

    return forward
