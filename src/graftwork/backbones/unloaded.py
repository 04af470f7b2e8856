"""A backbone known by its configuration alone: shapes without values, so that 100B parameters take no memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from graftwork.backbones.backbone import TextBackbone
from graftwork.backbones.network import unloaded_network
from graftwork.registry.manifest import Pooling

if TYPE_CHECKING:
    import torch

    from graftwork.backbones.tokenizer import Tokenizer


@contextmanager
def unloaded_backbone(config: Any, *, dtype: torch.dtype) -> Iterator[TextBackbone]:
    """The backbone of a transformers configuration; it runs, is split and adapted as any other, and computes nothing.

    Inside the block every new tensor has a shape, a dtype and a device, and no memory. It has no tokenizer and no
    identity: it is there to be counted.

    Raises:
        ModelUnsupported: if it is not a text model, or its layers cannot be told apart.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), _nothing_is_moved():
        network = unloaded_network(config, dtype=dtype)
        yield TextBackbone(
            network,
            cast("Tokenizer", None),
            fingerprint="",
            tokenizer_digest="",
            pooling=Pooling(mode="mean"),
            max_length=int(getattr(config, "max_position_embeddings", 512)),
            width=int(config.hidden_size),
        )


@contextmanager
def _nothing_is_moved() -> Iterator[None]:
    """Let `nn.Module.to` do nothing: PyTorch cannot move tensors without values, and all are where they belong."""
    from torch import nn

    moves = nn.Module.to

    def stay(module: nn.Module, *_args: Any, **_kwargs: Any) -> nn.Module:
        return module

    nn.Module.to = stay  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.to = moves  # type: ignore[method-assign]
