"""The base's weights with a delta in them, for whoever runs the result without us."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from graftwork.adaptation import strategy_of
from graftwork.adaptation.lora import LoraAttachment
from graftwork.adaptation.weights import WeightsAttachment
from graftwork.errors import SettingsInvalid
from graftwork.registry.artifact import HEAD, Artifact

if TYPE_CHECKING:
    from graftwork.backbones.backbone import TextBackbone


def merged_weights(backbone: TextBackbone, artifact: Artifact) -> dict[str, Tensor]:
    """All parameters and buffers of the base's model by name, with what the adapter changed in them.

    The backbone is the same afterwards, and shares no memory with what is changed.

    Raises:
        SettingsInvalid: if the delta is none of weights: a prefix.
        ArtifactInvalid: if it does not fit the base.
    """
    own = dict(backbone.model.state_dict())
    delta = {name: content for name, content in artifact.files.items() if name != HEAD}
    with strategy_of(artifact.manifest.strategy).restore(backbone, delta) as attachment, torch.no_grad():
        if isinstance(attachment, LoraAttachment):
            return own | _with_updates(backbone.model)
        if isinstance(attachment, WeightsAttachment):
            return own | attachment.values()
    if delta:
        raise SettingsInvalid(
            f"{artifact.manifest.strategy} changes no weights of the base, so there is nothing to merge",
            remedy="Export it without --merged.",
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
