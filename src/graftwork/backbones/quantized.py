"""Frozen linear layers kept in 8 or 4 bits: less memory for the base while low-rank updates of it are trained.

Values are kept in blocks, each with a scale: 8 bits by a table of 256 values (Dettmers et al., arXiv 2110.02861), 4
bits by one of the quantiles of a normal distribution (QLoRA, arXiv 2305.14314). What is computed with are the values
read back, in the backbone's dtype, one layer at a time, in both directions; so a network whose weights were rounded so
gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from graftwork.errors import ModelUnsupported, Problem, SettingsInvalid
from graftwork.registry.manifest import BaseBits

_BLOCK = {"int8": 256, "nf4": 64}
_BITS = {"int8": 8, "nf4": 4}
_SCALE_BYTES = 4


class QuantizedLinear(nn.Linear):
    """A linear layer whose weight `[out, in]` is kept in few bits.

    It has no parameter `weight`; `weight` reads it back.

    Args:
        linear: the layer as it was; left alone.
        bits: how the weight is kept.
    """

    def __init__(self, linear: nn.Linear, bits: BaseBits) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bits = bits
        self.dtype = linear.weight.dtype
        self.register_parameter("bias", linear.bias)
        self._keep(linear.weight.detach())

    def _keep(self, weight: Tensor) -> None:
        # In one row: on the CPU bitsandbytes 0.50 reads a matrix back wrongly when a block ends within a row.
        packed, self._state = _pack(weight.reshape(-1), self.bits)
        self.register_buffer("packed", packed, persistent=False)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight read back, `[out, in]` in the dtype that it had."""
        numbers = _read_back(cast(Tensor, self.packed), self._state, self.bits)
        return numbers.reshape(self.out_features, self.in_features).to(self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes that the weight takes."""
        return packed_bytes(self.in_features * self.out_features, self.bits)

    def forward(self, input: Tensor) -> Tensor:
        """`input [..., in]` times the weight, plus the bias: `[..., out]`."""
        product = cast(Tensor, _Product.apply(input, self))  # type: ignore[no-untyped-call]
        return product if self.bias is None else product + self.bias


class _Product(torch.autograd.Function):
    """A product with a weight that is read back anew for the way back, and not kept for it."""

    @staticmethod
    def forward(context: Any, values: Tensor, layer: QuantizedLinear) -> Tensor:
        context.layer = layer
        return nn.functional.linear(values, layer.weight.to(values.dtype))

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient @ context.layer.weight.to(gradient.dtype), None


class UnloadedQuantizedLinear(QuantizedLinear):
    """The same without values: sizes only."""

    def _keep(self, weight: Tensor) -> None:
        self.register_buffer("packed", torch.empty(self.nbytes, dtype=torch.uint8), persistent=False)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """A new tensor of its size."""
        return torch.empty((self.out_features, self.in_features), dtype=self.dtype)


def quantize(layers: Sequence[nn.Module], bits: BaseBits, kind: type[QuantizedLinear] = QuantizedLinear) -> None:
    """Keep the weights of all linear layers inside a stack in few bits, one after the other.

    Args:
        layers: the stack.
        bits: how.
        kind: what takes their places.

    Raises:
        SettingsInvalid: if bitsandbytes is not installed.
        ModelUnsupported: if there is no linear layer in it.
    """
    places = [
        (module, name, child)
        for layer in layers
        for module in layer.modules()
        for name, child in module.named_children()
        if type(child) is nn.Linear
    ]
    if not places:
        raise ModelUnsupported(
            f"nothing of this base model can be kept as {bits}",
            problems=[Problem("model", "there is no plain linear layer in its stack")],
            remedy="Train without base_dtype.",
        )
    for module, name, linear in places:
        setattr(module, name, kind(linear, bits))


def numbers_of(model: nn.Module) -> int:
    """How many numbers a model's parameters are, those in few bits among them."""
    packed = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    return sum(p.numel() for p in model.parameters()) + sum(m.in_features * m.out_features for m in packed)


def bytes_of(model: nn.Module) -> int:
    """Bytes of a model's parameters, those in few bits among them."""
    packed = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    return sum(p.nbytes for p in model.parameters()) + sum(module.nbytes for module in packed)


def packed_bytes(numbers: int, bits: BaseBits) -> int:
    """Bytes that so many numbers of one weight take, scales among them."""
    return numbers * _BITS[bits] // 8 + _SCALE_BYTES * -(-numbers // _BLOCK[bits])


def _library() -> Any:
    try:
        from bitsandbytes import functional
    except ImportError as error:
        raise SettingsInvalid(
            "base_dtype needs bitsandbytes, which is not installed",
            remedy="Install it with `pip install 'graftwork[quantized]'`.",
        ) from error
    return functional


def _pack(weight: Tensor, bits: BaseBits) -> tuple[Tensor, Any]:
    library = _library()
    if bits == "int8":
        return cast(tuple[Tensor, Any], library.quantize_blockwise(weight, blocksize=_BLOCK[bits]))
    return cast(
        tuple[Tensor, Any],
        library.quantize_4bit(weight, blocksize=_BLOCK[bits], quant_type="nf4"),
    )


def _read_back(packed: Tensor, state: Any, bits: BaseBits) -> Tensor:
    library = _library()
    read = library.dequantize_blockwise if bits == "int8" else library.dequantize_4bit
    return cast(Tensor, read(packed, state))
