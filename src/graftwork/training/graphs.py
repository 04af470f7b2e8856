"""Training on an ONNX graph: it can be asked and not changed, so that only a head is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graftwork.adaptation.feature_extraction import FeatureExtraction
from graftwork.backbones.onnx_network import is_graph, refuse_adapting

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone
    from graftwork.training.config import TrainingConfig
    from graftwork.training.progress import Progress


def for_graph(backbone: Backbone, config: TrainingConfig, progress: Progress) -> TrainingConfig:
    """The settings as they are for other bases; of a graph those of feature extraction where the choice is open.

    Raises:
        SettingsInvalid: if another strategy is asked for on a graph.
    """
    if not is_graph(backbone) or config.strategy == FeatureExtraction.name:
        return config
    if config.strategy != "auto":
        raise refuse_adapting(config.strategy)
    progress.note("the base is an ONNX graph: feature extraction is the strategy")
    return config.model_copy(update={"strategy": FeatureExtraction.name})
