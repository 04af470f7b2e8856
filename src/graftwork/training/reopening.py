"""A published delta, in place again and ready to be trained further."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from graftwork.adaptation import STRATEGIES
from graftwork.adaptation.full import Full
from graftwork.adaptation.partial import Partial, PartialSettings
from graftwork.adaptation.weights import WeightsAttachment

if TYPE_CHECKING:
    from graftwork.adaptation.strategy import Attachment
    from graftwork.backbones.backbone import Backbone
    from graftwork.registry.artifact import Artifact
    from graftwork.training.config import TrainingConfig


def reopen(backbone: Backbone, artifact: Artifact, config: TrainingConfig) -> Attachment:
    """Put an adapter's delta on the backbone, to go on with it.

    Of tuned weights all are trained that its strategy trains, also those that had not changed, from the values that its
    signs and scales stand for; what is stored later is again the difference from the base.

    Args:
        backbone: the bare backbone.
        artifact: the adapter.
        config: says how tuned weights are stored.

    Raises:
        ArtifactInvalid: if its files do not fit the backbone.
        SettingsInvalid: if its strategy is no longer possible on the backbone.
    """
    name = artifact.manifest.strategy
    strategy = STRATEGIES[name]
    if name not in (Partial.name, Full.name):
        return strategy.restore(backbone, artifact.delta_files)
    with strategy.restore(backbone, artifact.delta_files) as stored:
        assert isinstance(stored, WeightsAttachment)
        changed = {parameter: value.detach() for parameter, value in stored.tuned.items()}
    settings = config.settings_of(name)
    if isinstance(settings, PartialSettings):
        # Whatever way its layers were chosen, they are the same again.
        split = artifact.manifest.split if changed else None
        settings = PartialSettings(freeze_layers=split, store=settings.store)
    attachment = strategy.attach(backbone, settings, seed=config.seed)
    assert isinstance(attachment, WeightsAttachment)
    with torch.no_grad():
        for parameter, value in changed.items():
            attachment.tuned[parameter].copy_(value)
    return attachment
