"""Answering with one adapter the plain way: delta attached by its own library, one adapter at a time.

This is what every faster path is checked against, and what judges an adapter before it is published.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load
from torch import Tensor

from graftwork.adaptation import strategy_of
from graftwork.adaptation.chain import check_chain, inherited
from graftwork.backbones.belonging import check_belongs
from graftwork.errors import Problem
from graftwork.registry.artifact import HEAD, Artifact

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone


def adapted_features(
    backbone: Backbone,
    artifact: Artifact,
    texts: Sequence[str],
    *,
    ancestors: Sequence[Artifact] = (),
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Pooled vectors `[texts, width]`, float32, with the adapter's delta in place, on top of its ancestors'.

    Args:
        backbone: the frozen backbone.
        artifact: the adapter.
        texts: the texts.
        ancestors: its parent, the parent's parent and so on; none for a child of the base itself.
        progress: called after each batch with the number of texts it held.

    Raises:
        BaseMismatch: if the adapter was made for another base model.
        ArtifactInvalid: if its files are not what its manifest says, or its ancestors are others.
    """
    check_chain(artifact, ancestors)
    with inherited(backbone, ancestors):
        return features_on_top(backbone, artifact, texts, progress=progress)


def features_on_top(
    backbone: Backbone,
    artifact: Artifact,
    texts: Sequence[str],
    *,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """The same where the updates of its ancestors are in place already (see `chain.inherited`)."""
    artifact.check()
    own = artifact.manifest.pooling
    unlike = [] if own == backbone.pooling else [Problem("manifest.json, pooling", f"is {own}, not {backbone.pooling}")]
    check_belongs(artifact.manifest, backbone, also=unlike)
    with strategy_of(artifact.manifest.strategy).restore(backbone, artifact.delta_files):
        return backbone.embed(texts, max_length=artifact.manifest.max_length, progress=progress)


def head_logits(artifact: Artifact, features: Tensor) -> NDArray[np.float64]:
    """Logits `[rows, classes]` of pooled vectors `[rows, width]` by the adapter's head, before the temperature.

    A head with a hidden layer takes the rectified units of that layer instead of the vectors.

    Added up in float64, as serving does: weights may be large and cancel.
    """
    head = load(artifact.files[HEAD])
    with torch.no_grad():
        inputs = features.double()
        if artifact.manifest.hidden:
            inputs = torch.relu(inputs @ head["hidden.weight"].double().T + head["hidden.bias"].double())
        logits = inputs @ head["head.weight"].double().T + head["head.bias"].double()
    result: NDArray[np.float64] = logits.numpy()
    return result


def probabilities(logits: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Softmax of `logits / temperature`, row by row, float64."""
    scaled = logits / temperature
    scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = scaled / scaled.sum(axis=1, keepdims=True)
    return result
