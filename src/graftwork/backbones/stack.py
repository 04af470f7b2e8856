"""The stack of layers inside a model, and running the model from the middle of it.

No architecture's forward is copied. The trunk is the model's own forward, stopped where layer k begins; the tail is
the model's own forward again, in which the layers below k hand on a given tensor and layer k starts from it. Masks,
position embeddings and final norms are therefore always the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.errors import ModelUnsupported, Problem


@dataclass(frozen=True)
class LayerStack:
    """The layers of a model, bottom first.

    Attributes:
        names: dotted names of the layers in the model.
        layers: the layer modules themselves.
        tuple_size: length of the tuple the layers return, hidden states first; 0 when they return them alone.
        extras: there is more in that tuple (T5's position bias), so that the layers below the split must really run;
            correct, but the tail then saves nothing.
    """

    names: tuple[str, ...]
    layers: tuple[nn.Module, ...]
    tuple_size: int = 0
    extras: bool = False

    def __len__(self) -> int:
        return len(self.layers)

    def trunk(self, run: Callable[[], Any], split: int) -> Tensor:
        """What layer `split` receives when `run` runs the model; `split` is less than the number of layers."""

        def stop(*args: Any, **kwargs: Any) -> Any:
            raise ReachedSplit(_hidden_states(args, kwargs))

        try:
            with forwards_replaced({self.layers[split]: stop}):
                run()
        except ReachedSplit as reached:
            return reached.hidden
        raise AssertionError("the model's forward did not run the layer it ran when it was loaded")

    def tail(self, run: Callable[[], Any], hidden: Tensor, split: int) -> Any:
        """What `run` returns when layer `split` receives `hidden`; the layers below it are passed over."""
        replaced = {layer: self._passed_over(layer, hidden) for layer in self.layers[:split]}
        replaced[self.layers[split]] = _fed_with(self.layers[split].forward, hidden)
        with forwards_replaced(replaced):
            return run()

    def states(self, run: Callable[[], Any]) -> list[Tensor]:
        """What each layer receives when `run` runs the model, and then what the model returns."""
        received: list[Tensor] = []
        with ExitStack() as stack:
            for layer in self.layers:
                note = layer.register_forward_pre_hook(
                    lambda _layer, args, kwargs: received.append(_hidden_states(args, kwargs)), with_kwargs=True
                )
                stack.callback(note.remove)
            result = run()
        return [*received, result]

    def _passed_over(self, layer: nn.Module, hidden: Tensor) -> Callable[..., Any]:
        original = layer.forward

        def hand_on(*args: Any, **kwargs: Any) -> Any:
            if not self.tuple_size:
                return hidden
            if not self.extras:
                return (hidden, *[None] * (self.tuple_size - 1))
            with torch.no_grad():
                return (hidden, *original(*args, **kwargs)[1:])

        return hand_on


def find_stack(model: nn.Module, run: Callable[[], Any], expected: int | None) -> LayerStack:
    """Find the layers of a model by watching one forward.

    The stack is the outermost `ModuleList` of `expected` modules that the forward runs once each, in order, every
    one on the hidden states.

    Args:
        model: the model.
        run: runs the model's forward on a few tokens.
        expected: the number of layers its configuration tells.

    Raises:
        ModelUnsupported: if there is no such list, or more than one.
    """
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    candidates = {name: items for name, items in lists.items() if len(items) == expected}
    outermost = {
        name: tuple(items)
        for name, items in candidates.items()
        if not any(name.startswith(f"{other}.") for other in candidates)
    }
    watched = _watch(run, [layer for layers in outermost.values() for layer in layers])
    found = [
        LayerStack(
            names=tuple(f"{name}.{index}" for index in range(len(layers))),
            layers=layers,
            tuple_size=max(watched.tuple_sizes.get(layer, 0) for layer in layers),
            extras=any(watched.extras.get(layer, False) for layer in layers),
        )
        for name, layers in outermost.items()
        if [layer for layer in watched.order if layer in set(layers)] == list(layers)
    ]
    if len(found) != 1:
        listed = ", ".join(f"{name} ({len(items)})" for name, items in lists.items()) or "none"
        raise ModelUnsupported(
            f"the layers of {type(model).__name__} cannot be told apart, so it cannot be split",
            problems=[
                Problem("config.json", f"the configuration tells of {expected} layers"),
                Problem("model", f"its lists of modules, with their lengths: {listed}"),
                Problem("model", f"{len(found)} of them are run once each, in order, on the hidden states"),
            ],
            remedy="Use a model that is a plain stack of layers; layers that share weights cannot be split.",
        )
    return found[0]


class ReachedSplit(Exception):
    """Carries a tensor out of a forward; `trunk` catches it."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


@dataclass
class _Watched:
    order: list[nn.Module]
    tuple_sizes: dict[nn.Module, int]
    extras: dict[nn.Module, bool]


def _watch(run: Callable[[], Any], modules: Sequence[nn.Module]) -> _Watched:
    """Run once and note which modules ran on hidden states, in which order, and what kind of thing they returned."""
    watched = _Watched([], {}, {})

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = args[0] if args else kwargs.get("hidden_states")
        first = output[0] if isinstance(output, tuple) and output else output
        if isinstance(given, Tensor) and isinstance(first, Tensor) and _are_hidden_states(given, first):
            watched.order.append(module)
            returned = output if isinstance(output, tuple) else ()
            watched.tuple_sizes[module] = len(returned)
            watched.extras[module] = any(extra is not None for extra in returned[1:])

    handles = [module.register_forward_hook(note, with_kwargs=True) for module in modules]
    try:
        with torch.no_grad():
            run()
    except Exception as error:
        raise ModelUnsupported(
            "the model does not run on its main input alone",
            problems=[Problem(type(error).__name__, str(error))],
            remedy="Use a plain encoder or decoder of texts, or a plain encoder of images or sound.",
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return watched


def _are_hidden_states(given: Tensor, returned: Tensor) -> bool:
    """Whether a layer turns one into the other: of tokens the shape stays, feature maps may shrink and deepen."""
    return given.ndim == returned.ndim and (given.ndim == 4 or (given.ndim == 3 and given.shape == returned.shape))


@contextmanager
def forwards_replaced(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Let modules run other functions in the place of their forwards while the block runs; blocks may be nested."""
    before = {module: module.__dict__.get("forward") for module in forwards}
    for module, forward in forwards.items():
        module.__dict__["forward"] = forward
    try:
        yield
    finally:
        for module, own in before.items():
            if own is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = own


def _fed_with(forward: Callable[..., Any], hidden: Tensor) -> Callable[..., Any]:
    def fed(*args: Any, **kwargs: Any) -> Any:
        return forward(hidden, *args[1:], **kwargs) if args else forward(**{**kwargs, "hidden_states": hidden})

    return fed


def _hidden_states(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    hidden = args[0] if args else kwargs["hidden_states"]
    assert isinstance(hidden, Tensor)
    return hidden
