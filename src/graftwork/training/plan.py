"""What a run will take, told before it: parameters, memory by part, and time.

The network is taken from its configuration alone, without values. The strategy is attached to it and one batch is run
forwards and backwards, and what autograd keeps for the way back and the products of matrices are counted: no formula
of an architecture is copied, so a plan holds for whatever the strategy changes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from graftwork.adaptation import STRATEGIES
from graftwork.adaptation.lora import LoraSettings
from graftwork.adaptation.partial import Partial, PartialSettings
from graftwork.adaptation.strategy import Attachment, StrategySettings
from graftwork.backbones.backbone import TokenBatch
from graftwork.backbones.recompute import recomputed
from graftwork.backbones.unloaded import unloaded_backbone
from graftwork.errors import SettingsInvalid
from graftwork.training.config import TrainingConfig

if TYPE_CHECKING:
    from graftwork.backbones.backbone import TextBackbone

_MASTER_BYTES = 4  # trained values, their gradients and AdamW's two moments are float32
_MEASURED_SECONDS = 0.2


@dataclass(frozen=True)
class Memory:
    """Bytes by part at the peak of training.

    Attributes:
        weights: the frozen base.
        trained: what is trained, float32.
        gradients: its gradients.
        optimizer: AdamW's two moments.
        best: the copy of the best values so far.
        activations: what a batch keeps for the way back, at the longest texts.
        cache: the trunk's activations of all rows, unless they go to a file.
    """

    weights: int
    trained: int
    gradients: int
    optimizer: int
    best: int
    activations: int
    cache: int

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(vars(self).values())


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Attributes:
        strategy: what is trained.
        parameters: of the base.
        trainable: values that are trained, the head among them.
        head: values of the head.
        width: of the base.
        layers: of the base.
        split: first adapted layer.
        rows: rows that are not held out for the judgement; a share of them validates.
        tokens: of all these rows together.
        longest: tokens of the longest row.
        steps: optimizer steps at most.
        memory: bytes by part.
        flops: products and sums of matrix products of the whole run at most.
    """

    strategy: str
    parameters: int
    trainable: int
    head: int
    width: int
    layers: int
    split: int
    rows: int
    tokens: int
    longest: int
    steps: int
    memory: Memory
    flops: int

    def seconds(self, flops_per_second: float) -> float:
        """The matrix products alone at this rate: the run takes longer, by what lies between them."""
        return self.flops / flops_per_second


def make_plan(
    model: Any, config: TrainingConfig, *, strategy: str, lengths: Sequence[int], classes: int, dtype: torch.dtype
) -> Plan:
    """Plan a run of a strategy.

    Args:
        model: transformers' configuration of the base; no weights are read.
        config: the settings.
        strategy: a name of `STRATEGIES`; not `auto`.
        lengths: tokens of each row that is not held out for the judgement, special tokens included.
        classes: number of classes.
        dtype: of the frozen base.

    Raises:
        ModelUnsupported: if the base is no text model.
        SettingsInvalid: if the settings or the lengths do not fit it.
    """
    tuning = config.fine_tuning
    with unloaded_backbone(model, dtype=dtype) as backbone:
        parameters = sum(parameter.numel() for parameter in backbone.model.parameters())
        if max(lengths) > backbone.max_length:
            raise SettingsInvalid(
                f"the longest text has {max(lengths)} tokens; the base reads {backbone.max_length}",
                remedy="Plan with fewer tokens: longer texts are cut.",
            )
        layers, width = backbone.num_layers, backbone.width
        head = classes * (width + 1)
        with STRATEGIES[strategy].attach(backbone, _plannable(config.settings_of(strategy)), seed=0) as attachment:
            split = attachment.split
            trained = sum(parameter.numel() for parameter in attachment.parameters())
            steps = math.ceil(_trained_rows(lengths, config) / tuning.batch_size) * tuning.epochs if trained else 0
            common = math.ceil(np.mean(lengths))
            at_once = tuning.micro_batch_size or tuning.batch_size
            with recomputed(backbone, tuning.gradient_checkpointing):
                work = Work(backbone, attachment, rows=at_once, tokens=common)
                longest = work
                if max(lengths) != common:
                    longest = Work(backbone, attachment, rows=at_once, tokens=max(lengths))
        cached = sum(lengths) * width * dtype.itemsize if trained and split else 0
        in_memory = cached if cached <= tuning.cache_gb * 1e9 else 0
    trainable = trained + head
    return Plan(
        strategy=strategy,
        parameters=parameters,
        trainable=trainable,
        head=head,
        width=width,
        layers=layers,
        split=split,
        rows=len(lengths),
        tokens=sum(lengths),
        longest=max(lengths),
        steps=steps,
        memory=Memory(
            weights=parameters * dtype.itemsize,
            trained=_MASTER_BYTES * trainable,
            gradients=_MASTER_BYTES * trainable,
            optimizer=2 * _MASTER_BYTES * trainable if trained else 0,
            best=_MASTER_BYTES * trainable if trained else 0,
            activations=longest.kept,
            cache=in_memory,
        ),
        flops=_flops(work, lengths, config, trained=bool(trained)) + _searched(strategy, config),
    )


def matrix_rate(width: int, rows: int = 1024) -> float:
    """Products and sums a second that this machine reaches in a product `[rows, width] x [width, 4 width]`, float32."""
    left, right = torch.randn(rows, width), torch.randn(width, 4 * width)
    left @ right
    start, times = time.perf_counter(), 0
    while time.perf_counter() - start < _MEASURED_SECONDS:
        left @ right
        times += 1
    return times * 8 * rows * width**2 / (time.perf_counter() - start)


class Work:
    """What one batch costs, counted on a backbone without values.

    Attributes:
        tokens: padded tokens of the batch.
        whole: operations of the base's forward.
        tail: operations of the adapted layers' forward.
        step: operations of the adapted layers, forwards and backwards.
        kept: bytes that autograd keeps between the two; 0 when nothing but the head is trained.
    """

    def __init__(self, backbone: TextBackbone, attachment: Attachment, *, rows: int, tokens: int) -> None:
        self.tokens = rows * tokens
        ids = torch.zeros((rows, tokens), dtype=torch.int64)
        batch = TokenBatch(ids, torch.ones_like(ids))
        hidden = torch.zeros((rows, tokens, backbone.width), dtype=backbone.dtype)

        def forward() -> Tensor:
            top = backbone.tail(hidden, batch, attachment.split) if attachment.split else backbone.forward(batch)
            return backbone.pool(top, batch.attention_mask)

        trained = attachment.parameters()
        attachment.train(True)
        kept, pooled = _kept(backbone.model, forward)
        # Before anything is switched: layers that are computed again on the way back must find all as it was.
        back = _operations(lambda: pooled.sum().backward()) if trained else 0  # type: ignore[no-untyped-call]
        attachment.train(False)
        with torch.no_grad():
            self.whole = _operations(lambda: backbone.forward(batch))
            self.tail = _operations(forward)
        self.step = self.tail + back
        self.kept = kept if trained else 0


def _kept(model: nn.Module, run: Callable[[], Tensor]) -> tuple[int, Tensor]:
    """Bytes that autograd keeps of a forward, the model's own values aside."""
    storages: dict[int, int] = {}
    alive = []  # so that no storage is freed and its identity taken again

    def note(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = run()
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    return sum(nbytes for storage, nbytes in storages.items() if storage not in own), result


def _operations(run: Callable[[], object]) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def _trained_rows(lengths: Sequence[int], config: TrainingConfig) -> int:
    return len(lengths) - round(len(lengths) * config.validation_share)


def _flops(work: Work, lengths: Sequence[int], config: TrainingConfig, *, trained: bool) -> int:
    """All rows through the base for the probe; then trunk once, and tail for every epoch and validation."""
    tokens = sum(lengths)
    total = tokens * work.whole
    if trained:
        learned = tokens * _trained_rows(lengths, config) // len(lengths)
        epochs = config.fine_tuning.epochs
        total += tokens * (work.whole - work.tail)
        total += epochs * learned * work.step + (epochs + 1) * (tokens - learned) * work.tail
    return total // work.tokens


def _searched(strategy: str, config: TrainingConfig) -> int:
    """What looking for the split may take."""
    settings = config.partial
    wanted = strategy == Partial.name and settings.freeze_layers == "auto"
    return round(settings.budget * settings.gflops * 1e9) if wanted else 0


def _plannable(settings: StrategySettings) -> StrategySettings:
    """The same shapes without looking at values, which are not there; of what is decided later, the dearest."""
    if isinstance(settings, PartialSettings) and settings.freeze_layers == "auto":
        return settings.model_copy(update={"freeze_layers": 0})
    if isinstance(settings, LoraSettings) and settings.init == "pissa":
        return settings.model_copy(update={"init": "gaussian"})
    return settings
