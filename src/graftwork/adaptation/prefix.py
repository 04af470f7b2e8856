"""Prefix tuning: keys and values put before the text in the attention of every layer.

Li and Liang, arXiv 2101.00190; in every layer and for classification, Liu et al. (P-Tuning v2), arXiv 2110.07602.
Encoders and decoders alike: see `backbones.attention`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from graftwork.adaptation.prefix_files import NAME, StoredPrefix, embeddings_of, read_prefix, write_prefix
from graftwork.adaptation.strategy import Delta, StrategySettings
from graftwork.backbones.attention import LayerPrefix, keys_and_values, prefixed
from graftwork.backbones.backbone import TokenBatch
from graftwork.errors import Problem, SettingsInvalid
from graftwork.registry.artifact import DEFAULT_LIMITS, DELTA, DELTA_CONFIG
from graftwork.registry.manifest import TensorSpec

if TYPE_CHECKING:
    from types import TracebackType

    import torch
    from torch import nn

    from graftwork.backbones.backbone import Backbone

_SAMPLE = 64  # tokens of a random text by which the size of keys and values is told
_SIZE = 0.5  # of a random prefix, as a share of that; measured in docs/decisions/0053-prefix-tuning.md


class PrefixTuningSettings(StrategySettings):
    """What prefix tuning trains.

    Attributes:
        length: keys and values a layer.
        layers: give a prefix to only this many layers, from the top; to all by default.
        store: dtype the delta is stored in.
    """

    length: int = Field(16, ge=1, le=DEFAULT_LIMITS.prefix)
    layers: int | None = Field(None, ge=1)
    store: Literal["float16", "float32"] = "float16"


class PrefixAttachment:
    """A prefix in place on a backbone.

    Attributes:
        split: index of the first layer that has one.
        keys: `[heads, length, head width]` for each layer from there, float32.
        values: the same.
    """

    def __init__(self, backbone: Backbone, prefix: StoredPrefix, *, store: torch.dtype) -> None:
        from torch import nn

        self._store = store
        self.split = backbone.num_layers - len(prefix.keys)
        self.keys, self.values = (
            [nn.Parameter(layer.to(backbone.device, copy=True).float()) for layer in part]
            for part in (prefix.keys, prefix.values)
        )
        layers = zip(self.keys, self.values, strict=True)
        self._block = ExitStack()
        self._block.enter_context(
            prefixed(
                backbone,
                {self.split + index: LayerPrefix(keys, values) for index, (keys, values) in enumerate(layers)},
                backbone.attention.offset(prefix.keys.shape[2], split=self.split),
            )
        )

    def train(self, mode: bool) -> None:
        """Nothing acts in training only."""

    def parameters(self) -> list[nn.Parameter]:
        """Keys and values, float32, from the lowest layer that has them."""
        return [parameter for layer in zip(self.keys, self.values, strict=True) for parameter in layer]

    def depths(self) -> list[int]:
        """For each of `parameters()` the index of its layer."""
        return [self.split + index for index in range(len(self.keys)) for _ in range(2)]

    def delta(self) -> Delta:
        """Both PEFT files; the same values give the same bytes."""
        import torch

        keys, values = (
            torch.stack([layer.detach() for layer in part]).to("cpu", self._store) for part in (self.keys, self.values)
        )
        prefix = StoredPrefix(keys, values)
        spec = TensorSpec(
            name=NAME, shape=tuple(embeddings_of(prefix).shape), dtype=str(self._store).removeprefix("torch.")
        )
        return Delta(self.split, (spec,), write_prefix(prefix))

    def __enter__(self) -> PrefixAttachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._block.close()


class PrefixTuning:
    """Train keys and values that come before the text, and the head."""

    name = "prefix-tuning"
    title = "prefix tuning"
    settings_type: type[StrategySettings] = PrefixTuningSettings
    learning_rate = 2e-2

    def attach(self, backbone: Backbone, settings: PrefixTuningSettings, *, seed: int) -> PrefixAttachment:
        """Put a random prefix in place: it changes the output a little, because whatever is attended to has weight."""
        import torch

        backbone.texts_only("prefix tuning")
        layers = backbone.num_layers if settings.layers is None else settings.layers
        _refuse_misfits(backbone, settings.length, layers)
        return PrefixAttachment(
            backbone, _random_prefix(backbone, settings.length, layers, seed), store=getattr(torch, settings.store)
        )

    def restore(self, backbone: Backbone, files: Mapping[str, bytes]) -> PrefixAttachment:
        """Put a stored prefix in place; every tensor must be wanted and every wanted one be there."""
        prefix = read_prefix(files[DELTA_CONFIG], files[DELTA], backbone)
        return PrefixAttachment(backbone, prefix, store=prefix.keys.dtype)


def _refuse_misfits(backbone: Backbone, length: int, layers: int) -> None:
    problems = []
    if length > backbone.max_length:
        problems.append(
            Problem("prefix_tuning.length", f"is {length}, but the base reads {backbone.max_length} tokens at most")
        )
    if layers > backbone.num_layers:
        problems.append(Problem("prefix_tuning.layers", f"is {layers}, but the base has {backbone.num_layers} layers"))
    if problems:
        raise SettingsInvalid(
            "prefix tuning's settings do not fit this base model", problems=problems, remedy="Lower them."
        )


def _random_prefix(backbone: Backbone, length: int, layers: int, seed: int) -> StoredPrefix:
    """Random keys and values for the top layers, half as large as those that each layer makes of a text."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    vocabulary = backbone.model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    ids = torch.randint(vocabulary, (1, min(_SAMPLE, backbone.max_length)), generator=generator).to(backbone.device)
    with torch.no_grad():
        seen = keys_and_values(backbone, TokenBatch(ids, torch.ones_like(ids)))[backbone.num_layers - layers :]
    # [layers, keys and values]; no value is looked at, because a plan is made of shapes alone.
    sizes = torch.stack([part.float().square().mean().sqrt().cpu() for layer in seen for part in layer]).view(-1, 2)
    attention = backbone.attention
    drawn = torch.randn(layers, 2, attention.heads, length, attention.head_width, generator=generator)
    keys, values = (drawn * (_SIZE * sizes)[:, :, None, None, None]).unbind(dim=1)
    return StoredPrefix(keys, values)
