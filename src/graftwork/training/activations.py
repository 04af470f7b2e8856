"""What the tail receives for each row, computed once for a whole run.

Below the first adapted layer a frozen backbone gives the same activations in every epoch. They are computed once, in
evaluation mode and without gradients, kept without their padding, and padded again for each batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from graftwork.backbones.backbone import length_sorted_batches

if TYPE_CHECKING:
    from graftwork.adaptation.strategy import Attachment
    from graftwork.backbones.backbone import TextBackbone, TokenBatch

_KEPT_BYTES = 2 * 2**30


class Activations:
    """Inputs of a backbone's tail, row by row.

    With a split at the bottom, or more activations than fit the bound, nothing is kept and the trunk runs with each
    batch.

    Attributes:
        lengths: tokens of each row, int64 `[rows]`.
        bytes_kept: memory held by kept activations.
    """

    def __init__(self, backbone: TextBackbone, ids: Sequence[Sequence[int]], *, split: int) -> None:
        self._backbone = backbone
        self._ids = ids
        self._split = split
        self.lengths = np.array([len(tokens) for tokens in ids], dtype=np.int64)
        size = int(self.lengths.sum()) * backbone.width * backbone.dtype.itemsize
        self.bytes_kept = size if split > 0 and size <= _KEPT_BYTES else 0
        self._kept: list[Tensor] | None = self._compute() if self.bytes_kept else None

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, TokenBatch]:
        """The tail's input `[rows, tokens, width]` for these rows, and their token batch."""
        batch = self._backbone.collate([self._ids[row] for row in rows])
        if self._kept is None:
            with torch.no_grad():
                return self._backbone.trunk(batch, self._split), batch
        hidden = torch.nn.utils.rnn.pad_sequence([self._kept[row] for row in rows], batch_first=True)
        return hidden, batch

    def vectors(self, rows: Sequence[int], attachment: Attachment) -> Tensor:
        """The pooled vectors `[rows, width]`, float32, of these rows with a delta in place; gradients flow to it.

        The whole network runs where the delta changes what comes below the first layer.
        """
        hidden, batch = self.batch(rows)
        if min(attachment.depths(), default=0) < 0:
            top = self._backbone.forward(batch)
        else:
            top = self._backbone.tail(hidden, batch, self._split)
        return self._backbone.pool(top, batch.attention_mask)

    def batches(self) -> list[list[int]]:
        """All rows in batches of similar length, for evaluation."""
        return length_sorted_batches(self.lengths.tolist(), self._backbone.batch_tokens)

    def _compute(self) -> list[Tensor]:
        kept: list[Tensor] = [torch.empty(0)] * len(self._ids)
        for rows in self.batches():
            batch = self._backbone.collate([self._ids[row] for row in rows])
            with torch.no_grad():
                hidden = self._backbone.trunk(batch, self._split)
            for place, row in enumerate(rows):
                kept[row] = hidden[place, : len(self._ids[row])].clone()
        return kept
