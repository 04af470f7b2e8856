"""What an adapter inherits: the updates of its ancestors, in place on the backbone while a child is trained or judged.

They are added to the outputs of the linear layers, as PEFT adds them. The weights are not touched, so nothing has to be
restored, and whatever is attached for the child lies on top.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from graftwork.adaptation.lora import Lora
from graftwork.backbones.belonging import check_belongs
from graftwork.errors import ArtifactInvalid
from graftwork.registry.artifact import Artifact
from graftwork.registry.chain import check_strategies

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone


class Update(NamedTuple):
    """The update of one module: `x @ a @ b` is added to its output; float32.

    Attributes:
        a: `[in, rank]`.
        b: `[rank, out]`, scaled.
    """

    a: Tensor
    b: Tensor


def check_chain(artifact: Artifact, ancestors: Sequence[Artifact]) -> None:
    """Check that `ancestors`, the nearest first, are the ones that an artifact stands on, all of them.

    Raises:
        ArtifactInvalid: if they are others, or of strategies that cannot be chained.
    """
    below = artifact.manifest
    for ancestor in ancestors:
        if below.parent != ancestor.digest:
            break
        check_strategies(below.strategy, ancestor.manifest.strategy)
        below = ancestor.manifest
    else:
        if below.parent is None:
            return
    raise ArtifactInvalid(
        f"the adapter stands on {str(below.parent)[:12]}, which is not what was given with it",
        remedy="Read it with its ancestors (graftwork.registry.chain.read_ancestors).",
    )


@contextmanager
def inherited(backbone: Backbone, ancestors: Sequence[Artifact]) -> Iterator[None]:
    """Let the updates of all ancestors act on the backbone; it is exactly as before when the block ends.

    Whatever is attached inside the block is attached on top of them, and gradients flow through them.

    Args:
        backbone: the frozen backbone; nothing is attached to it yet.
        ancestors: the parent, its parent and so on.

    Raises:
        BaseMismatch: if one was made for another base model.
        ArtifactInvalid: if the files of one are not what its manifest says.
    """
    every = [updates_of(backbone, ancestor) for ancestor in ancestors]
    with ExitStack() as stack:
        for updates in reversed(every):
            for name, update in updates.items():
                hook = backbone.model.get_submodule(name).register_forward_hook(_adding(update))
                stack.callback(hook.remove)
        yield


def updates_of(backbone: Backbone, artifact: Artifact) -> dict[str, Update]:
    """The low-rank updates of one adapter, without its ancestors', by the dotted name of the module.

    Raises:
        BaseMismatch: if it was made for another base model.
        ArtifactInvalid: if its files are not what its manifest says.
    """
    from peft.tuners.lora import LoraLayer

    artifact.check()
    check_belongs(artifact.manifest, backbone)
    files = artifact.delta_files
    if not files:
        return {}
    with Lora().restore(backbone, files):
        return {
            name: Update(
                layer.lora_A["default"].weight.detach().float().T.contiguous(),
                layer.lora_B["default"].weight.detach().float().T.contiguous() * layer.scaling["default"],
            )
            for name, layer in backbone.model.named_modules()
            if isinstance(layer, LoraLayer)
        }


def _adding(update: Update) -> Any:
    def add(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        added = inputs[0].to(torch.float32) @ update.a @ update.b
        return (output + added).to(output.dtype)

    return add
