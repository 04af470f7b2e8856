"""Feature extraction: the backbone stays as it is, only a head is trained on its pooled vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from graftwork.adaptation.strategy import Delta, StrategySettings
from graftwork.errors import ArtifactInvalid, Problem

if TYPE_CHECKING:
    from types import TracebackType

    from torch import nn

    from graftwork.backbones.backbone import Backbone


class FeatureExtractionSettings(StrategySettings):
    """How the head is fitted.

    Attributes:
        head: `logistic`, logistic regression; or `mlp`, one hidden layer, for classes that no plane separates.
        hidden: units of that layer.
        alpha: L2 penalty on the weights of a head with a hidden layer.
        penalties: candidates for the L2 penalty on the weights, relative to the mean loss a row; the best by
            cross-validated log loss is taken.
        folds: folds of that cross-validation.
    """

    head: Literal["logistic", "mlp"] = "logistic"
    hidden: int = Field(64, ge=1, le=4096)
    alpha: float = Field(3.0, ge=0)
    penalties: tuple[float, ...] = Field((3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001), min_length=1)
    folds: int = Field(5, ge=2, le=20)


class _Nothing:
    """The attachment that changes nothing."""

    def __init__(self, layers: int) -> None:
        self.split = layers

    def train(self, mode: bool) -> None:
        """Nothing behaves otherwise in training."""

    def parameters(self) -> list[nn.Parameter]:
        return []

    def depths(self) -> list[int]:
        return []

    def delta(self) -> Delta:
        return Delta(self.split, (), {})

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class FeatureExtraction:
    """Train only the head: a linear probe (Alain & Bengio, arXiv 1610.01644)."""

    name = "feature-extraction"
    title = "feature extraction"
    settings_type: type[StrategySettings] = FeatureExtractionSettings
    learning_rate = 1e-3

    def attach(self, backbone: Backbone, settings: FeatureExtractionSettings, *, seed: int) -> _Nothing:
        """Attach nothing: the split is above the last layer."""
        return _Nothing(backbone.num_layers)

    def restore(self, backbone: Backbone, files: Mapping[str, bytes]) -> _Nothing:
        """Attach nothing; a delta that is there all the same is refused."""
        if files:
            raise ArtifactInvalid(
                "an adapter by feature extraction holds a delta",
                problems=[Problem(name, "is left over") for name in sorted(files)],
                remedy="Train and publish it again.",
            )
        return _Nothing(backbone.num_layers)
