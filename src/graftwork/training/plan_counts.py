"""What a strategy costs on a network without values, counted: parameters, products, and bytes that are alive.

Layers that are alike cost the same. Of each kind two are run, and the rest cost what the second of them adds.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from graftwork.adaptation import STRATEGIES
from graftwork.adaptation.lora import LoraSettings
from graftwork.adaptation.partial import PartialSettings, first_tuned
from graftwork.adaptation.strategy import Attachment, StrategySettings
from graftwork.backbones.backbone import Backbone, TokenBatch
from graftwork.backbones.quantized import bytes_of, numbers_of
from graftwork.backbones.recompute import recomputed
from graftwork.backbones.unloaded import UnloadedModel
from graftwork.training.live_bytes import LiveBytes


class Counts(NamedTuple):
    """What was counted; all of it is linear in the number of layers of a kind.

    Attributes:
        split: index of the first adapted layer.
        parameters: of the base.
        weights: their bytes.
        trained: values that are trained below the head.
        largest: values of the largest tensor among them.
        whole: operations of the base's forward, on texts of the common length.
        tail: operations of the adapted layers' forward.
        step: operations of the adapted layers, forwards and backwards.
        kept: bytes that autograd keeps between the two, at the longest texts; 0 when nothing but the head is trained.
        reading: most bytes alive while a batch is read without gradients.
        evaluating: the same for the adapted layers.
        upper: most bytes alive in a step until the gradient has reached the lowest adapted layer, at the longest texts.
        lower: the same from there on.
    """

    split: int
    parameters: int
    weights: int
    trained: int
    largest: int
    whole: int
    tail: int
    step: int
    kept: int
    reading: int
    evaluating: int
    upper: int
    lower: int


@dataclass(frozen=True)
class Shape:
    """Sizes of what is run.

    Attributes:
        rows: rows computed at once in a step.
        common: tokens of a text of the mean length.
        longest: tokens of the longest.
        classes: of the head.
    """

    rows: int
    common: int
    longest: int
    classes: int


def count(
    model: UnloadedModel, strategy: str, settings: StrategySettings, shape: Shape, *, recompute: bool = False
) -> tuple[Counts, Backbone]:
    """Count what a strategy costs.

    Args:
        model: the base, without values.
        strategy: a name of `STRATEGIES`.
        settings: its settings.
        shape: sizes of a batch.
        recompute: whether layers are run again on the way back.

    Returns:
        The counts, and the last backbone that was counted.

    Raises:
        SettingsInvalid: if the settings do not fit the base.
    """
    settings = _plannable(settings)
    groups = _groups(model, settings)
    alike = {index: group[0] for group in groups for index in group}
    kept = sorted(index for group in groups for index in group[:2])

    def counted(layers: list[int] | None) -> tuple[Counts, Backbone]:
        backbone = model.backbone(layers, [alike[index] for index in range(len(alike))])
        return _count(backbone, strategy, settings, shape, recompute), backbone

    several = [group for group in groups if len(group) > 2]
    if not several:
        return counted(None)
    total, backbone = counted(kept)
    few = total
    for group in several:
        less, _ = counted([index for index in kept if index != group[1]])
        more = len(group) - 2
        total = Counts(*(sum_ + more * (a - b) for sum_, a, b in zip(total, few, less, strict=True)))
    return total, backbone


def _groups(model: UnloadedModel, settings: StrategySettings) -> list[list[int]]:
    """Indices of layers that cost the same: alike, on one side of the lowest adapted one, and told the same.

    The lowest is apart: no gradient flows below it, so autograd keeps less of it.
    """
    lowest = _lowest(settings, model.layer_names)
    groups: dict[Hashable, list[int]] = {}
    for index, (layer, name, kind) in enumerate(zip(model.layers, model.layer_names, model.kinds, strict=True)):
        told: Hashable = ()
        if isinstance(settings, LoraSettings):
            told = settings.patterns_of(name, [module for module, _ in layer.named_modules()])
        groups.setdefault((kind, (index > lowest) - (index < lowest), told), []).append(index)
    return list(groups.values())


def _lowest(settings: StrategySettings, names: tuple[str, ...]) -> int:
    if isinstance(settings, PartialSettings) and names:
        return first_tuned(settings, names)
    layers = getattr(settings, "layers", None)
    return 0 if layers is None else max(0, len(names) - layers)


def _plannable(settings: StrategySettings) -> StrategySettings:
    """The same shapes without looking at values, which are not there; of what is decided later, the dearest."""
    if isinstance(settings, PartialSettings) and settings.freeze_layers == "auto":
        return settings.model_copy(update={"freeze_layers": 0})
    if isinstance(settings, LoraSettings) and settings.init == "pissa":
        return settings.model_copy(update={"init": "gaussian"})
    return settings


def _count(backbone: Backbone, strategy: str, settings: StrategySettings, shape: Shape, recompute: bool) -> Counts:
    number, weights = numbers_of(backbone.model), bytes_of(backbone.model)
    with STRATEGIES[strategy].attach(backbone, settings, seed=0) as attachment, recomputed(backbone, recompute):
        trained = attachment.parameters()
        common = _Work(backbone, attachment, shape, tokens=shape.common)
        longest = common if shape.common == shape.longest else _Work(backbone, attachment, shape, tokens=shape.longest)
        upper, lower = longest.step_bytes() if trained else (0, 0)
        # Where the lowest layer is adapted, the adapted layers are the whole network, which is run once then.
        whole, reading = _operations(common.read), longest.reading_bytes()
        tail = _operations(common.adapted) if attachment.split else whole
        return Counts(
            split=attachment.split,
            parameters=number,
            weights=weights,
            trained=sum(parameter.numel() for parameter in trained),
            largest=max((parameter.numel() for parameter in trained), default=0),
            whole=whole,
            tail=tail,
            step=common.step_operations() if trained else tail,
            kept=longest.kept() if trained else 0,
            reading=reading,
            evaluating=longest.evaluating_bytes() if attachment.split else reading,
            upper=upper,
            lower=lower,
        )


class _Work:
    """Running one batch of texts of a length."""

    def __init__(self, backbone: Backbone, attachment: Attachment, shape: Shape, *, tokens: int) -> None:
        self._backbone = backbone
        self._attachment = attachment
        self._classes = shape.classes
        self._rows = shape.rows
        self._tokens = tokens

    def read(self) -> Tensor:
        """The pooled vectors by the whole network."""
        return self._vectors(self._rows, split=0)

    def adapted(self) -> Tensor:
        """The pooled vectors by the adapted layers."""
        return self._vectors(self._rows, split=self._attachment.split)

    def step_operations(self) -> int:
        """Operations of the adapted layers, forwards and backwards."""
        self._attachment.train(True)
        operations = _operations(lambda: self.adapted().sum().backward(), gradients=True)  # type: ignore[no-untyped-call]
        self._attachment.train(False)
        self._forget_gradients()
        return operations

    def kept(self) -> int:
        """Bytes that autograd keeps of a forward, the model's own values aside."""
        storages: dict[int, int] = {}
        alive = []  # so that no storage is freed and its identity taken again

        def note(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
            alive.append(tensor)
            return tensor

        self._attachment.train(True)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            self.adapted()
        self._attachment.train(False)
        own = {parameter.untyped_storage()._cdata for parameter in self._backbone.model.parameters()}
        return sum(nbytes for storage, nbytes in storages.items() if storage not in own)

    def step_bytes(self) -> tuple[int, int]:
        """Most bytes alive in a step: above the lowest adapted layer, and in it and below."""
        head = nn.Linear(self._backbone.width, self._classes)
        live = LiveBytes([*self._known(), *head.parameters()])
        upper = 0

        def reached(_gradient: Tensor) -> None:
            nonlocal upper
            upper = live.restart()

        def watch(_layer: nn.Module, _args: object, output: Tensor | tuple[Tensor, ...]) -> None:
            (output if isinstance(output, Tensor) else output[0]).register_hook(reached)  # type: ignore[no-untyped-call]

        watching = self._backbone.layers[self._attachment.split].register_forward_hook(watch)
        self._attachment.train(True)
        with live:
            logits = head(self.adapted())
            targets = torch.zeros(self._rows, dtype=torch.int64)
            nn.functional.cross_entropy(logits, targets).backward()  # type: ignore[no-untyped-call]
        self._attachment.train(False)
        watching.remove()
        self._forget_gradients()
        return upper, live.peak

    def reading_bytes(self) -> int:
        """Most bytes alive while as many texts are read as a batch without gradients holds."""
        return self._bytes_without_gradients(split=0)

    def evaluating_bytes(self) -> int:
        """The same for the adapted layers."""
        return self._bytes_without_gradients(split=self._attachment.split)

    def _bytes_without_gradients(self, split: int) -> int:
        rows = max(1, self._backbone.batch_tokens // self._tokens)
        with torch.no_grad(), LiveBytes(self._known()) as live:
            self._vectors(rows, split=split)
        return int(live.peak)

    def _vectors(self, rows: int, *, split: int) -> Tensor:
        backbone = self._backbone
        ids = torch.zeros((rows, self._tokens), dtype=torch.int64)
        batch = TokenBatch(ids, torch.ones_like(ids))
        if split == 0:
            return backbone.pool(backbone.forward(batch), batch.attention_mask)
        hidden = torch.zeros((rows, self._tokens, backbone.width), dtype=backbone.dtype)
        return backbone.pool(backbone.tail(hidden, batch, split), batch.attention_mask)

    def _known(self) -> list[Tensor]:
        model = self._backbone.model
        return [*model.parameters(), *model.buffers(), *self._attachment.parameters()]

    def _forget_gradients(self) -> None:
        for parameter in self._attachment.parameters():
            parameter.grad = None


def _operations(run: Callable[[], object], *, gradients: bool = False) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    mapping = {torch.ops.aten._grouped_mm: _grouped_operations}
    with torch.set_grad_enabled(gradients), FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        run()
    return int(counter.get_total_flops())


def _grouped_operations(left: tuple[int, ...], right: tuple[int, ...], *_args: object, **_kwargs: object) -> int:
    """Of the experts' products, which PyTorch's counter passes over: each row of `left` meets one matrix of `right`."""
    return 2 * left[-2] * left[-1] * right[-1]
