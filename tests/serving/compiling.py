"""A tiny base whose networks are compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from graftwork.backbones.backbone import Backbone, TokenBatch
from graftwork.serving.compiled.forward import CompiledForward, Compiler
from graftwork.serving.compiled.store import Source
from graftwork.serving.compiled.variant import Variant
from graftwork.serving.delta import adaptable
from graftwork.serving.forward import Forward
from graftwork.serving.stats import Meter
from tests.backbones.conftest import open_backbone
from tests.backbones.tiny import save_model

LAYERS = 2
NICENESS = 0  # the tests wait for it: at the lowest priority it would starve beside other tests
RANKS = (8, 16)
ADAPTED = ("query", "value", "intermediate.dense")


@dataclass
class Compiled:
    """A tiny base with its compiled networks, and the eager network beside it."""

    folder: Path
    kept: Path
    backbone: Backbone
    forward: CompiledForward
    eager: Forward
    compiler: Compiler
    meter: Meter

    @property
    def sites(self) -> tuple[tuple[str, int], ...]:
        names = [name for name in adaptable(self.backbone) if name.endswith(ADAPTED)]
        return tuple(sorted((name, rank) for name in names for rank in RANKS))

    @property
    def above(self) -> tuple[tuple[str, int], ...]:
        """The sites of the top layer."""
        return tuple(site for site in self.sites if f".layer.{LAYERS - 1}." in site[0])

    def batch(self, lengths: Sequence[int], seed: int = 0) -> TokenBatch:
        generator = torch.Generator().manual_seed(seed)
        batch = self.backbone.collate([torch.randint(30, (n,), generator=generator).tolist() for n in lengths])
        assert isinstance(batch, TokenBatch)
        return batch

    def ran_compiled(self, run: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What `run` gives, which must not have been computed by PyTorch's modules."""
        before = self.meter.snapshot().eager_batches
        with torch.inference_mode():
            hidden = run()
        assert self.meter.snapshot().eager_batches == before
        return hidden

    def agree(self, found: torch.Tensor, meant: torch.Tensor, batch: TokenBatch) -> None:
        real = batch.attention_mask.bool()
        torch.testing.assert_close(found[real], meant[real], rtol=1e-4, atol=1e-4)


def open_compiled(folder: Path, kept: Path, architecture: str) -> Compiled:
    backbone = open_backbone(save_model(folder, architecture, num_hidden_layers=LAYERS))
    places, meter, compiler = adaptable(backbone), Meter(), Compiler(kept, NICENESS)
    forward = CompiledForward(backbone, places, folder, compiler, meter)
    return Compiled(folder, kept, backbone, forward, Forward(backbone, places), compiler, meter)


def source_of(compiled: Compiled) -> Source:
    return compiled.forward._source


@contextmanager
def compiled_networks(folder: Path) -> Iterator[Compiled]:
    """The base with four networks: whole with and without room for updates, a trunk, and a tail with room for them."""
    compiled = open_compiled(folder / "bert", folder / "kept", "bert")
    for variant in (Variant("trunk", 1), Variant("whole", 0, compiled.sites), Variant("tail", 1, compiled.above)):
        compiled.forward._ask(variant)
    compiled.compiler.settle(900)
    assert len(compiled.forward) == 4
    yield compiled
    compiled.compiler.close()
    compiled.forward.close()
