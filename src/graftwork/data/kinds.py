"""What the checks and the splits ask of a kind of media."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from graftwork.data.dataset import Dataset
from graftwork.data.findings import Finding
from graftwork.data.media import Media, Modality


class Kind(Protocol):
    """A kind of media: one module with these functions."""

    def what_is_wrong(self, media: Media) -> str:
        """Why an item cannot be used, in a few words; empty when it can."""
        ...

    def groups(self, items: Sequence[Media]) -> NDArray[np.int64]:
        """A number for each, int64 `[items]`, from 0 by first appearance; near-duplicates share one."""
        ...

    def check(self, usable: Dataset) -> list[Finding]:
        """Findings that only this kind of media has."""
        ...


def kind_of(modality: Modality) -> Kind:
    """The module of a kind of media."""
    if modality == "image":
        from graftwork.data import images

        return images
    if modality == "audio":
        from graftwork.data import sounds

        return sounds
    raise NotImplementedError(f"no checks for {modality}")
