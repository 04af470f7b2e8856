"""The network of a variant as one function of tensors, to be exported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.backbones.network import Network
from graftwork.serving.compiled.variant import Site, Variant


class Graph(nn.Module):
    """What a variant computes; `forward` takes everything that is not the network's own frozen weights.

    Embedding tables are inputs too, so that a compiled network does not hold a copy of what is most of the bytes of a
    small model with a large vocabulary.

    Args:
        network: the frozen network.
        variant: what of it is computed.
    """

    def __init__(self, network: Network, variant: Variant) -> None:
        super().__init__()
        self._network = network
        self._model = network.model
        self._variant = variant
        self._embeddings = embedding_names(network.model)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where updates are added."""
        return self._variant.sites

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        embeddings: Sequence[Tensor],
        activations: Tensor | None,
        slots: Tensor | None,
        a: Sequence[Tensor],
        b: Sequence[Tensor],
    ) -> Tensor:
        """Run the variant.

        Args:
            input_ids: int64 `[rows, tokens]`.
            attention_mask: int64 `[rows, tokens]`.
            embeddings: the embedding tables, in the order of `embedding_names`.
            activations: `[rows, tokens, width]`, of a tail only.
            slots: int64 `[sites, rows]`, of a variant with sites only.
            a: of each site, `[slots, in, rank]`.
            b: of each site, `[slots, rank, out]`.

        Returns:
            Hidden states `[rows, tokens, width]`.
        """
        weights = dict(zip(self._embeddings, embeddings, strict=True))

        def run() -> Any:
            inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
            output = torch.func.functional_call(self._model, weights, kwargs=inputs)
            return output.last_hidden_state

        stack, split = self._network.stack, self._variant.split
        with self._updated(slots, a, b):
            if self._variant.part == "trunk":
                return self._received(run)
            if self._variant.part == "tail":
                assert activations is not None
                hidden = stack.tail(run, activations, split)
                assert isinstance(hidden, Tensor)
                return hidden
            hidden = run()
            assert isinstance(hidden, Tensor)
            return hidden

    def _received(self, run: Callable[[], Any]) -> Tensor:
        """What the layer at the split receives; what is run above it is dead code, and dropped by the compiler.

        `LayerStack.trunk` ends the forward with an exception, which an export does not survive.
        """
        received: list[Tensor] = []

        def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            received.append(args[0] if args else kwargs["hidden_states"])

        layer = self._network.stack.layers[self._variant.split]
        hook = layer.register_forward_pre_hook(note, with_kwargs=True)
        try:
            run()
        finally:
            hook.remove()
        return received[0]

    @contextmanager
    def _updated(self, slots: Tensor | None, a: Sequence[Tensor], b: Sequence[Tensor]) -> Iterator[None]:
        with ExitStack() as hooks:
            for index, (name, _) in enumerate(self._variant.sites):
                assert slots is not None
                hook = _adding(slots[index], a[index], b[index])
                hooks.callback(self._model.get_submodule(name).register_forward_hook(hook).remove)
            yield


def embedding_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the model's embedding tables, each table once."""
    seen: dict[int, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            seen.setdefault(id(module.weight), f"{name}.weight")
    return tuple(seen.values())


def _adding(slots: Tensor, a: Tensor, b: Tensor) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    def add(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        update = torch.bmm(args[0], a.index_select(0, slots))
        return output + torch.bmm(update, b.index_select(0, slots))

    return add
