"""A backbone known by its configuration alone: shapes without values, so that 100B parameters take no memory."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from graftwork.backbones.alike import LeftOut, layer_kinds, layer_list
from graftwork.backbones.attention import AttentionStack, find_attention
from graftwork.backbones.backbone import Backbone
from graftwork.backbones.network import Network, unloaded_model, with_stack
from graftwork.backbones.quantized import UnloadedQuantizedLinear, quantize
from graftwork.data.media import Modality
from graftwork.registry.manifest import BaseBits, Pooling

if TYPE_CHECKING:
    import torch

    from graftwork.backbones.tokenizer import Tokenizer


class UnloadedModel:
    """The model of a transformers configuration, of which backbones with fewer layers can be had.

    Args:
        config: the configuration.
        dtype: of the parameters.
        bits: how linear layers are kept, when it is in fewer bits.

    Attributes:
        layers: its layers, bottom first; none when they cannot be told before it is run.
        layer_names: their dotted names.
        kinds: what each is made of; layers of one kind do the same work.
    """

    def __init__(self, config: Any, *, dtype: torch.dtype, bits: BaseBits | None = None) -> None:
        self._config = config
        self._model = unloaded_model(config, dtype=dtype)
        found = layer_list(self._model, int(getattr(self._model.config, "num_hidden_layers", 0)))
        name, self._list = found if found else ("", nn.ModuleList())
        self.layers: tuple[nn.Module, ...] = tuple(self._list)
        self.layer_names = tuple(f"{name}.{index}" for index in range(len(self.layers)))
        if bits:
            quantize(self.layers, bits, UnloadedQuantizedLinear)
        self.kinds: list[Hashable] = layer_kinds(self.layers, self._model.config)

    def backbone(self, kept: Sequence[int] | None = None, alike: Sequence[int] = ()) -> Backbone:
        """The backbone; it runs, is split and adapted as any other, and computes nothing.

        It has no tokenizer and no identity: it is there to be counted. One that was given before cannot be used then.

        Args:
            kept: indices of the layers that are there, all by default; what was left out keeps its place and does
                nothing.
            alike: for each layer the index of the one of its kind that is there and runs first.

        Raises:
            ModelUnsupported: if it is not a text model, or its layers cannot be told apart.
        """
        for index, layer in enumerate(self.layers):
            stood_in = self._list[index]
            if isinstance(stood_in, LeftOut):
                stood_in.let_go()
            self._list[index] = layer
        if kept is not None:
            for index in set(range(len(self.layers))) - set(kept):
                self._list[index] = LeftOut(self.layers[alike[index]])
        return _Unloaded(
            with_stack(self._model),
            cast("Tokenizer", None),
            fingerprint="",
            tokenizer_digest="",
            pooling=Pooling(mode="mean"),
            max_length=int(getattr(self._config, "max_position_embeddings", 512)),
            width=int(self._config.hidden_size),
        )


class _Unloaded(Backbone):
    """A backbone of which layers may have been left out."""

    @property
    def modality(self) -> Modality:
        """Texts: other models are not counted."""
        return "text"

    def __init__(self, network: Network, *args: Any, **kwargs: Any) -> None:
        super().__init__(network, *args, **kwargs)
        self._calls = network.attention_calls

    @cached_property
    def attention(self) -> AttentionStack:
        """Where its layers attend; a layer that was left out, where its like does."""
        there = [layer for layer in self.layers if not isinstance(layer, LeftOut)]
        found = find_attention(self.model, there, self._calls)
        modules = dict(zip(there, found.modules, strict=True))
        return replace(found, modules=tuple(modules[x.like if isinstance(x, LeftOut) else x] for x in self.layers))


@contextmanager
def without_values() -> Iterator[None]:
    """Inside the block every new tensor has a shape, a dtype and a device, and no memory."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), _nothing_is_moved():
        yield


@contextmanager
def _nothing_is_moved() -> Iterator[None]:
    """Let `nn.Module.to` do nothing: PyTorch cannot move tensors without values, and all are where they belong."""
    moves = nn.Module.to

    def stay(module: nn.Module, *_args: Any, **_kwargs: Any) -> nn.Module:
        return module

    nn.Module.to = stay  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.to = moves  # type: ignore[method-assign]
