"""Full fine-tuning: everything that the hidden states depend on is trained, embeddings included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from graftwork.adaptation.strategy import StrategySettings
from graftwork.adaptation.weights import WeightsAttachment, WeightSettings, attach_weights, restore_weights

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone


class FullSettings(WeightSettings):
    """How what full fine-tuning trained is stored (see `WeightSettings`)."""


class Full:
    """Train every parameter of the base, and the head."""

    name = "full"
    title = "full fine-tuning"
    settings_type: type[StrategySettings] = FullSettings
    learning_rate = 5e-5

    def attach(self, backbone: Backbone, settings: FullSettings, *, seed: int) -> WeightsAttachment:
        """Put float32 copies in the place of all parameters but those that nothing depends on (a pooler)."""
        return attach_weights(backbone, lowest=-1, split=0, encoding=settings.store)

    def restore(self, backbone: Backbone, files: Mapping[str, bytes]) -> WeightsAttachment:
        """Put stored weights in place."""
        return restore_weights(backbone, files)
