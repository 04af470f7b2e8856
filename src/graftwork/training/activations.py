"""What the tail receives for each row, computed once for a whole run.

Below the first adapted layer a frozen backbone gives the same activations in every epoch. They are computed once, in
evaluation mode and without gradients, kept without their padding, and padded again for each batch.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from graftwork.backbones.backbone import length_sorted_batches

if TYPE_CHECKING:
    from graftwork.adaptation.strategy import Attachment
    from graftwork.backbones.backbone import Backbone, Batch

_MEMORY = 2 * 2**30


class Activations:
    """Inputs of a backbone's tail, row by row.

    With a split at the bottom nothing is kept. What does not fit the bound of memory is kept in a file that has no name
    and is gone with the process; when the disk has no room for it either, the trunk runs with each batch. The values
    are the same wherever they are kept.

    Args:
        backbone: the frozen backbone.
        ids: each row, encoded.
        split: index of the tail's first layer.
        memory: bytes that may be kept in memory.
        folder: for the file; the system's temporary folder by default.

    Attributes:
        lengths: tokens of each row, int64 `[rows]`.
        bytes_kept: size of what is kept.
        place: where.
        columns: width of `vectors`.
    """

    def __init__(
        self,
        backbone: Backbone,
        ids: Sequence[Sequence[int]],
        *,
        split: int,
        memory: float = _MEMORY,
        folder: Path | None = None,
    ) -> None:
        self._backbone = backbone
        self._ids = ids
        self._split = split
        self.columns = backbone.width
        self.lengths = np.array([len(tokens) for tokens in ids], dtype=np.int64)
        # Feature maps are kept whole, a row each; of everything else there is a row a token.
        self._row_shape = backbone.row_shape(split) if split > 0 else None
        # Rows of the same tokens, as a text has that is labelled for several tasks, are kept once.
        place: dict[tuple[int, ...], int] = {}
        self._place = [place.setdefault(tuple(tokens), len(place)) for tokens in ids]
        self._unique = np.unique(np.array(self._place, dtype=np.int64), return_index=True)[1]
        lengths = self.lengths[self._unique]
        counts = lengths if self._row_shape is None else np.ones_like(lengths)
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self.place: Literal["nowhere", "memory", "disk"] = "nowhere"
        # The tokens of all kept rows one after the other, [tokens, width]; or [rows, channels, height, width].
        self._kept: Tensor | None = self._room(memory, folder) if split > 0 and ids else None
        self.bytes_kept = 0 if self._kept is None else self._kept.nbytes
        if self._kept is not None:
            self._compute(self._kept)

    @property
    def identity(self) -> str:
        """SHA-256 over what the activations follow from: base, dtype, split, token ids."""
        backbone = self._backbone
        numbers = backbone.dtype_name + (f" {backbone.bits}" if backbone.bits else "")
        digest = hashlib.sha256(f"{backbone.fingerprint} {numbers} {self._split}".encode())
        digest.update(self.lengths.tobytes())
        for tokens in self._ids:
            digest.update(np.asarray(tokens, dtype=np.int64).tobytes())
        return digest.hexdigest()

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, Batch]:
        """The tail's input `[rows, tokens, width]` for these rows, and their batch."""
        chosen = [self._ids[row] for row in rows]
        if self._kept is None:
            batch = self._backbone.collate(chosen)
            with torch.no_grad():
                return self._backbone.trunk(batch, self._split), batch
        batch = self._backbone.outline(chosen)
        if self._row_shape is not None:
            return self._kept[self._places(rows)].to(self._backbone.device), batch
        parts = [self._kept[self._starts[place] : self._starts[place + 1]] for place in self._places(rows)]
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True).to(self._backbone.device), batch

    def vectors(self, rows: Sequence[int], attachment: Attachment) -> Tensor:
        """The pooled vectors `[rows, width]`, float32, of these rows with a delta in place; gradients flow to it.

        The whole network runs where the delta changes what comes below the first layer.
        """
        if min(attachment.depths(), default=0) < 0:
            batch = self._backbone.collate([self._ids[row] for row in rows])
            top = self._backbone.forward(batch)
        else:
            hidden, batch = self.batch(rows)
            top = self._backbone.tail(hidden, batch, self._split)
        return self._backbone.pool(top, batch.attention_mask)

    def batches(self) -> list[list[int]]:
        """All rows in batches of similar length, for evaluation."""
        return length_sorted_batches(self.lengths.tolist(), self._backbone.batch_tokens)

    def _places(self, rows: Sequence[int]) -> list[int]:
        """Where the rows are among those that are kept."""
        return [self._place[row] for row in rows]

    def _room(self, memory: float, folder: Path | None) -> Tensor | None:
        """An empty tensor for everything, in memory or in a file; None when there is room in neither."""
        shape = (int(self._starts[-1]), *(self._row_shape or (self._backbone.width,)))
        size = prod(shape) * self._backbone.dtype.itemsize
        if size <= memory:
            self.place = "memory"
            return torch.empty(shape, dtype=self._backbone.dtype, device=self._backbone.device)
        try:
            mapped = _mapped(shape, self._backbone.dtype, size, folder)
        except OSError:
            return None
        self.place = "disk"
        return mapped

    def _compute(self, kept: Tensor) -> None:
        lengths = self.lengths[self._unique].tolist()
        for places in length_sorted_batches(lengths, self._backbone.batch_tokens):
            batch = self._backbone.collate([self._ids[self._unique[place]] for place in places])
            with torch.no_grad():
                hidden = self._backbone.trunk(batch, self._split)
            for row, place in enumerate(places):
                kept[self._starts[place] : self._starts[place + 1]] = (
                    hidden[row, : lengths[place]] if self._row_shape is None else hidden[row : row + 1]
                )


def _mapped(shape: tuple[int, ...], dtype: torch.dtype, size: int, folder: Path | None) -> Tensor:
    """A tensor in a file whose name is removed at once: nothing is left of it when the process is killed."""
    descriptor, name = tempfile.mkstemp(prefix="activations-", dir=folder)
    try:
        if sys.platform == "linux":
            # All of it now: a full disk is an error here and would kill the process at a later write to the mapping.
            os.posix_fallocate(descriptor, 0, size)
        return torch.from_file(name, shared=True, size=prod(shape), dtype=dtype).reshape(shape)
    finally:
        os.close(descriptor)
        Path(name).unlink()
