"""Keys and values put before those of a text in a backbone's attention: what prefix tuning needs.

A cache of past keys and values, as PEFT uses, is not taken by every encoder, and moves the tokens of those that take it
(docs/decisions/0053-prefix-tuning.md). So the attention function itself is replaced, at the place where transformers
looks it up: `config._attn_implementation`. What a layer's attention receives has then been projected and rotated,
whatever the architecture, and the mask has been made.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from graftwork.errors import ModelUnsupported, Problem

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone, Batch

Attend = Callable[..., tuple[Tensor, None]]

_NAME = "graftwork"
# What the attention of these modules is computed by, while a block of `_standing_in` runs.
_STANDING_IN: dict[nn.Module, Attend] = {}
# What a function may be handed that a prefix has no part in; with it the layer would not compute what it should.
_EXTRAS = ("position_bias", "s_aux")


@dataclass(frozen=True)
class AttentionStack:
    """The attention of a backbone's layers, all of one shape.

    Attributes:
        modules: the module that calls the attention function, for each layer.
        heads: heads of keys and values; fewer than those of queries where they are grouped.
        head_width: numbers in a key or a value of one head.
        moves: whether a prefix can take places: it can in decoders.
        positions: size of the table of positions, None when there is none.
    """

    modules: tuple[nn.Module, ...]
    heads: int
    head_width: int
    moves: bool
    positions: int | None

    @property
    def width(self) -> int:
        """Numbers in the keys of one token, all heads together."""
        return self.heads * self.head_width

    def offset(self, length: int, *, split: int) -> int:
        """How many places tokens move on for a prefix from layer `split` up.

        A prefix of every layer takes the first places of a decoder, as it does in PEFT. One of the upper layers only
        takes none, so that what the layers below compute is the base's own.
        """
        return length if self.moves and split == 0 else 0


@dataclass(frozen=True)
class LayerPrefix:
    """Keys and values that come before those of a text in one layer.

    Attributes:
        keys: `[heads, length, head width]` for all rows of a batch, or `[rows, heads, length, head width]`.
        values: the same.
        seen: bool `[rows, length]`, which of them a row has; None when every row has all.
    """

    keys: Tensor
    values: Tensor
    seen: Tensor | None = None


@dataclass(frozen=True)
class AttentionCall:
    """One call of the attention function.

    Attributes:
        module: the module that called it.
        shapes: heads and numbers in a head, of the keys and of the values.
        extras: what it was handed that a prefix has no part in.
    """

    module: nn.Module
    shapes: tuple[tuple[int, int], tuple[int, int]]
    extras: tuple[str, ...]


@contextmanager
def watched_attention(model: nn.Module) -> Iterator[list[AttentionCall]]:
    """Note every call of the attention function while the block runs the model.

    Nothing is noted of a model that computes its attention in another way than by PyTorch's own function.
    """
    calls: list[AttentionCall] = []

    def watch(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        shapes = (key.shape[1], key.shape[3]), (value.shape[1], value.shape[3])
        calls.append(AttentionCall(module, shapes, tuple(name for name in _EXTRAS if kwargs.get(name) is not None)))
        return _sdpa(module, query, key, value, *args, **kwargs)

    config: Any = model.config
    if config._attn_implementation != "sdpa":
        yield calls
        return
    with _standing_in(model, dict.fromkeys(model.modules(), watch)):
        yield calls


def find_attention(model: nn.Module, layers: Sequence[nn.Module], calls: Sequence[AttentionCall]) -> AttentionStack:
    """Find where the layers of a model attend.

    Args:
        model: the model.
        layers: its layers, bottom first.
        calls: what `watched_attention` noted of one forward.

    Raises:
        ModelUnsupported: if its attention cannot be given a prefix, with every reason.
    """
    of_layer = {module: index for index, layer in enumerate(layers) for module in layer.modules()}
    inside = [call for call in calls if call.module in of_layer]
    problems = []
    if [of_layer[call.module] for call in inside] != list(range(len(layers))):
        problems.append("its layers do not call transformers' attention function once each")
    shapes = sorted({shape for call in inside for shape in call.shapes})
    if len(shapes) > 1:
        problems.append(f"its keys and values are of several shapes (heads, width): {shapes}")
    problems += [f"its attention adds a {name}" for name in sorted({name for call in inside for name in call.extras})]
    if problems:
        raise ModelUnsupported(
            "the attention of this base model cannot be given a prefix",
            problems=[Problem("model", problem) for problem in problems],
            remedy="Train with another strategy on this base.",
        )
    ((heads, head_width),) = shapes
    causal = any(getattr(call.module, "is_causal", False) for call in inside)
    return AttentionStack(
        modules=tuple(call.module for call in inside),
        heads=heads,
        head_width=head_width,
        moves=causal and "position_ids" in inspect.signature(model.forward).parameters,
        positions=_position_table(model, of_layer),
    )


def keys_and_values(backbone: Backbone, batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """What each layer attends to in a batch: its keys and its values, each `[rows, heads, tokens, head width]`.

    Raises:
        ModelUnsupported: see `find_attention`.
    """
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def keep(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen[module] = key, value
        return _sdpa(module, query, key, value, *args, **kwargs)

    modules = backbone.attention.modules
    with _standing_in(backbone.model, dict.fromkeys(modules, keep)):
        backbone.forward(batch)
    return [seen[module] for module in modules]


@contextmanager
def prefixed(
    backbone: Backbone, prefixes: Mapping[int, LayerPrefix], offsets: Sequence[int] | int = 0
) -> Iterator[None]:
    """Let layers attend to a prefix, and then to the text, while the block runs.

    Every token sees the whole prefix, also through a sliding window, and also where attention looks back only: a
    prefix is no place in the text. Its keys are used as they are, after the rotation of models that rotate.

    Args:
        backbone: the backbone; it is the same when the block ends, also after a failure.
        prefixes: by index of the layer; the others are left alone.
        offsets: how many places the tokens move on, for each row or for all.
    """
    attention = backbone.attention
    functions = {attention.modules[layer]: partial(_attend_with, prefix) for layer, prefix in prefixes.items()}
    with ExitStack() as stack:
        if offsets if isinstance(offsets, int) else any(offsets):
            hook = partial(_move_on, torch.as_tensor(offsets, device=backbone.device), attention.positions)
            handle = backbone.model.register_forward_pre_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        stack.enter_context(_standing_in(backbone.model, functions))
        yield


def _attend_with(
    prefix: LayerPrefix,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> Any:
    """Attention over a prefix and the text.

    Args:
        prefix: what is put before.
        module: the attention module.
        query: `[rows, query heads, tokens, head width]`.
        key: `[rows, heads, tokens, head width]`.
        value: the same.
        attention_mask: `[rows or 1, heads or 1, tokens, tokens]`, truth values or what is added to the scores; None
            when nothing is masked but by `is_causal`.
        is_causal: whether a token looks back only; by default what the module says.
        kwargs: what else the function takes.
    """
    rows, tokens = key.shape[0], key.shape[2]
    if is_causal is None:
        is_causal = bool(getattr(module, "is_causal", True))
    if attention_mask is None and is_causal:
        attention_mask = torch.ones(tokens, tokens, dtype=torch.bool, device=key.device).tril()[None, None]
    if attention_mask is None and prefix.seen is not None:
        attention_mask = torch.ones(1, 1, tokens, tokens, dtype=torch.bool, device=key.device)
    if attention_mask is not None:
        attention_mask = _extended(attention_mask, prefix, rows)
    keys, values = (
        torch.cat([put.to(own.dtype).expand(rows, *put.shape[-3:]), own], dim=2)
        for put, own in ((prefix.keys, key), (prefix.values, value))
    )
    return _sdpa(module, query, keys, values, attention_mask, is_causal=False, **kwargs)


def _extended(mask: Tensor, prefix: LayerPrefix, rows: int) -> Tensor:
    """A mask of the text, with that of the prefix before it: `[rows, heads or 1, tokens, length + tokens]`."""
    length = prefix.keys.shape[-2]
    seen = prefix.seen
    if seen is None:
        seen = torch.ones(rows, length, dtype=torch.bool, device=mask.device)
    # A mask that is not of truth values is added to the scores.
    before = seen if mask.dtype == torch.bool else mask.new_zeros(rows, length).masked_fill(~seen, -torch.inf)
    _, heads, tokens, _ = mask.shape
    return torch.cat([before[:, None, None].expand(rows, heads, tokens, length), mask.expand(rows, -1, -1, -1)], dim=3)


def _move_on(
    offsets: Tensor, positions: int | None, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Number the tokens from their row's offset on; what has no place in the table shares the last one."""
    ids = kwargs["input_ids"]
    places = torch.arange(ids.shape[1], device=ids.device) + offsets.reshape(-1, 1)
    if positions is not None:
        places = places.clamp(max=positions - 1)
    return args, {**kwargs, "position_ids": places.expand(ids.shape)}


@contextmanager
def _standing_in(model: nn.Module, functions: Mapping[nn.Module, Attend]) -> Iterator[None]:
    """Have the attention of these modules computed by other functions while the block runs."""
    _register()
    config: Any = model.config
    before = config._attn_implementation
    _STANDING_IN.update(functions)
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        for module in functions:
            del _STANDING_IN[module]


@cache
def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(_NAME, _dispatch)
    AttentionMaskInterface.register(_NAME, sdpa_mask)


def _dispatch(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    attend: Attend = _STANDING_IN.get(module, _sdpa)
    return attend(module, *args, **kwargs)


def _sdpa(*args: Any, **kwargs: Any) -> Any:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(*args, **kwargs)


def _position_table(model: Any, inside_layers: Container[nn.Module]) -> int | None:
    """How many positions a model has a vector for, None when it has no table of them."""
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding) and module not in inside_layers]
    return int(model.config.max_position_embeddings) if tables != [model.get_input_embeddings()] else None
