"""Memory for time: what layers keep for the way back is dropped and computed again (Chen et al., arXiv 1604.06174)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from graftwork.backbones.alike import LeftOut
from graftwork.backbones.stack import forwards_replaced

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone


@contextmanager
def recomputed(backbone: Backbone, wanted: bool = True) -> Iterator[None]:
    """Let each layer keep only what it receives, and run again, with the same dropout, when gradients come back to it.

    The gradients are the same bits. The top layer keeps everything: it would be run again at once, and the peak of
    memory, one layer's activations and the inputs of those below it, would be the same.

    Args:
        backbone: the backbone; it is the same when the block ends. Forwards and their backwards belong in one block.
        wanted: False does nothing.
    """
    if not wanted:
        yield
        return
    there = [layer for layer in backbone.layers if not isinstance(layer, LeftOut)]  # a plan leaves layers out
    with forwards_replaced({layer: _run_again(layer.forward) for layer in there[:-1]}):
        yield


def _run_again(forward: Callable[..., Any]) -> Callable[..., Any]:
    from torch.utils.checkpoint import checkpoint

    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run
