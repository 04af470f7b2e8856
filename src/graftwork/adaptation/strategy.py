"""What a way of adapting a backbone has to offer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ConfigDict

from graftwork.registry.manifest import TensorSpec

if TYPE_CHECKING:
    from types import TracebackType

    from torch import nn

    from graftwork.backbones.backbone import Backbone


class StrategySettings(BaseModel):
    """Base of every strategy's settings: unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def begins_as_base(self) -> bool:
        """Whether a fresh delta changes nothing at all: what the base gives is then known to be what it gives."""
        return False


class Attachment(Protocol):
    """A delta in place on a backbone; leaving the `with` block restores the base exactly.

    Attributes:
        split: index of the first layer it changes; the number of layers when it changes none. Everything below gives
            the same activations as the bare base.
    """

    @property
    def split(self) -> int:
        """Index of the first adapted layer."""
        ...

    def train(self, mode: bool) -> None:
        """Switch what only acts in training, such as dropout; it is off until it is switched on."""
        ...

    def parameters(self) -> list[nn.Parameter]:
        """What is trained, in a fixed order; float32."""
        ...

    def depths(self) -> list[int]:
        """For each of `parameters()` the index of the layer it belongs to: -1 below the first layer."""
        ...

    def delta(self) -> Delta:
        """What it has become, as it is published."""
        ...

    def __enter__(self) -> Attachment: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Delta:
    """What a strategy trained, ready to be stored.

    Attributes:
        split: index of the first adapted layer.
        tensors: names, shapes and dtypes, in the order stored.
        files: the files that hold it, by name; none for a head-only adapter.
    """

    def __init__(self, split: int, tensors: tuple[TensorSpec, ...], files: Mapping[str, bytes]) -> None:
        self.split = split
        self.tensors = tensors
        self.files = dict(files)


class Strategy(Protocol):
    """A way to adapt a frozen backbone.

    A strategy says what is trained and how it is stored; how it is trained is the training room's business.

    Attributes:
        name: as settings and manifests spell it.
        title: as sentences spell it.
        settings_type: type of its settings.
        learning_rate: highest rate of AdamW when none is asked for.
    """

    name: str
    title: str
    settings_type: type[StrategySettings]
    learning_rate: float

    def attach(self, backbone: Backbone, settings: Any, *, seed: int) -> Attachment:
        """Put a fresh delta on the backbone that changes its output little or not at all.

        Args:
            backbone: the frozen backbone; nothing else may be attached to it.
            settings: an instance of `settings_type`.
            seed: decides every random initial value.

        Raises:
            SettingsInvalid: if the settings do not fit this architecture.
        """
        ...

    def restore(self, backbone: Backbone, files: Mapping[str, bytes]) -> Attachment:
        """Put a stored delta on the backbone.

        Raises:
            ArtifactInvalid: if the files do not fit the backbone, tensor by tensor.
        """
        ...
