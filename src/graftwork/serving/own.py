"""Deltas that cannot be added to the rows of a shared batch: rows that have one run as a group of their own.

A batch holds rows of every kind; the runner computes it group by group, and the answers come together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from graftwork.adaptation.prefix_files import PEFT_TYPE as PREFIX
from graftwork.adaptation.weight_files import PEFT_TYPE as WEIGHTS
from graftwork.serving.prefix import read_prefix_delta
from graftwork.serving.weights import read_weights_delta

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone, Batch


class OwnDelta(Protocol):
    """A delta on the host that its rows run with; compared and hashed by identity."""

    @property
    def split(self) -> int:
        """Index of the first layer that is not the base's own."""
        ...

    @property
    def group(self) -> Hashable:
        """Rows whose deltas say the same run together."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        ...

    def hidden(self, backbone: Backbone, batch: Batch, deltas: Sequence[OwnDelta]) -> Tensor:
        """The last hidden state `[rows, tokens, width]` of a group, in the backbone's dtype.

        The backbone is the same afterwards, also when this fails.

        Args:
            backbone: the backbone.
            batch: the rows of the group.
            deltas: the delta of each row.
        """
        ...


# By the `peft_type` of `adapter_config.json`: reads the config and the tensors, strictly, for a backbone.
OwnReader = Callable[[bytes, bytes, "Backbone"], OwnDelta]
READERS: Mapping[str, OwnReader] = {PREFIX: read_prefix_delta, WEIGHTS: read_weights_delta}


def own_reader(config: bytes) -> OwnReader | None:
    """The reader of the kind of delta that a config tells; None when it is to be read as updates of a shared batch."""
    try:
        content = json.loads(config)
    except (ValueError, RecursionError):
        return None
    return READERS.get(str(content.get("peft_type"))) if isinstance(content, dict) else None
