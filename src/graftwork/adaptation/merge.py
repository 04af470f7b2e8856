"""The base's weights with a delta in them, for whoever runs the result without us."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from graftwork.adaptation import strategy_of
from graftwork.adaptation.chain import check_chain, updates_of
from graftwork.adaptation.lora import LoraAttachment
from graftwork.adaptation.weights import WeightsAttachment
from graftwork.errors import SettingsInvalid
from graftwork.registry.artifact import Artifact

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone


def merged_weights(backbone: Backbone, artifact: Artifact, ancestors: Sequence[Artifact] = ()) -> dict[str, Tensor]:
    """All parameters and buffers of the base's model by name, with what the adapter changed in them, and its ancestors.

    The backbone is the same afterwards, and shares no memory with what is changed.

    Raises:
        SettingsInvalid: if the delta is none of weights: a prefix.
        ArtifactInvalid: if it does not fit the base, or its ancestors are others.
    """
    check_chain(artifact, ancestors)
    own = dict(backbone.model.state_dict())
    if ancestors:
        return own | _summed(backbone, (artifact, *ancestors))
    with strategy_of(artifact.manifest.strategy).restore(backbone, artifact.delta_files) as attachment, torch.no_grad():
        if isinstance(attachment, LoraAttachment):
            return own | _with_updates(backbone.model)
        if isinstance(attachment, WeightsAttachment):
            return own | attachment.values()
    if artifact.delta_files:
        raise SettingsInvalid(
            f"{artifact.manifest.strategy} changes no weights of the base, so there is nothing to merge",
            remedy="Export it with --format onnx, or in its own files.",
        )
    return own


def _with_updates(model: nn.Module) -> dict[str, Tensor]:
    from peft.tuners.lora import LoraLayer

    merged = {}
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            weight = module.get_base_layer().weight
            merged[f"{name}.weight"] = (weight.float() + module.get_delta_weight("default").float()).to(weight.dtype)
    return merged


def _summed(backbone: Backbone, chain: Sequence[Artifact]) -> dict[str, Tensor]:
    """The weights that any of a chain updates, with all updates in them, rounded once."""
    sums: dict[str, Tensor] = {}
    for artifact in chain:
        for name, update in updates_of(backbone, artifact).items():
            added = update.a @ update.b
            sums[name] = sums[name] + added if name in sums else added
    merged = {}
    for name, added in sums.items():
        module = backbone.model.get_submodule(name)
        weight = backbone.model.get_parameter(f"{name}.weight").detach()
        turned = added.T if isinstance(module, nn.Linear) else added
        merged[f"{name}.weight"] = (weight.float() + turned).to(weight.dtype)
    return merged
