"""What became of a base's parameters, in a fraction of their bytes: the form in which tuned weights are stored.

Only what differs is kept, in one of three encodings:

- `one-bit` (BitDelta, Liu et al., arXiv 2402.10193): of each number the sign of its difference, eight to a byte, and
  one scale a row, at first the mean size of the row's differences. Vectors, such as biases and norms, are kept as
  differences in float16.
- `float16`: the differences in float16.
- `lossless`: the numbers themselves, in float32.

Of a table of which only some rows differ, as those of words that occurred, only these rows are kept, with their places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

Encoding = Literal["one-bit", "float16", "lossless"]
ROWS, SIGN, SCALE, DIFFERENCE, VALUE = "rows", "sign", "scale", "difference", "value"


@dataclass(frozen=True, eq=False, slots=True)
class Change:
    """How one parameter differs from the base's.

    Attributes:
        parts: its tensors by what they are:
            `rows` int32 `[changed]`, rising, the places of the rows that differ; without it all rows do;
            `sign` uint8 `[changed, bytes]`, the lowest bit first, 1 for plus, and `scale` float32 `[changed]`;
            or `difference` float16 `[changed, ...]`; or `value` float32 `[changed, ...]`.
    """

    parts: Mapping[str, Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(part.nbytes for part in self.parts.values())

    def on(self, base: Tensor) -> Tensor:
        """The changed parameter, float32, on the base's device; differentiable with respect to the scale."""
        rows = self.parts.get(ROWS)
        if rows is None:
            return self._changed(base.float(), None)
        rows = rows.to(base.device)
        return base.float().index_copy(0, rows.long(), self._changed(base[rows].float(), None))

    def on_rows(self, base: Tensor, stored: Tensor) -> Tensor:
        """The same of some rows alone.

        Args:
            base: the base's own rows `[n, ...]`.
            stored: int64 `[n]`, which of the stored rows each of them is.

        Returns:
            float32 `[n, ...]`.
        """
        return self._changed(base.float(), stored)

    def scaled(self, factor: Tensor) -> Change:
        """The same with each row's scale times a factor, `[changed]`; only of an encoding with scales."""
        return Change({**self.parts, SCALE: self.parts[SCALE] * factor})

    def _changed(self, base: Tensor, stored: Tensor | None) -> Tensor:
        parts = {name: part for name, part in self.parts.items() if name != ROWS}
        if stored is not None:
            parts = {name: part[stored.to(part.device)] for name, part in parts.items()}
        parts = {name: part.to(base.device) for name, part in parts.items()}
        if VALUE in parts:
            return parts[VALUE]
        if DIFFERENCE in parts:
            return base + parts[DIFFERENCE].float()
        signs = unpack_signs(parts[SIGN], base[:1].numel()).view(base.shape)
        scale = parts[SCALE].view(-1, *[1] * (base.ndim - 1))
        return torch.addcmul(base, signs, scale)


def change_of(base: Tensor, now: Tensor, encoding: Encoding) -> Change | None:
    """Encode how a parameter differs; None when it does not.

    Args:
        base: the base's own, in any dtype.
        now: what became of it, float32, of the same shape.
        encoding: how it is kept.
    """
    before = base.detach().float()
    now = now.detach()
    differs = (now != before).flatten(1).any(dim=1) if now.ndim > 1 else (now != before).any().view(1)
    if not differs.any():
        return None
    parts: dict[str, Tensor] = {}
    if now.ndim > 1 and not differs.all():
        rows = differs.nonzero()[:, 0]
        parts[ROWS] = rows.int()
        before, now = before[rows], now[rows]
    if encoding == "lossless":
        parts[VALUE] = now.clone()
    elif encoding == "float16" or now.ndim < 2:
        parts[DIFFERENCE] = (now - before).half()
    else:
        difference = (now - before).flatten(1)
        parts[SIGN] = pack_signs(difference)
        parts[SCALE] = difference.abs().mean(dim=1)
    return Change({name: part.cpu().contiguous() for name, part in parts.items()})


def pack_signs(values: Tensor) -> Tensor:
    """One bit a number, 1 for more than nought, the lowest bit first: `[rows, columns]` to uint8 `[rows, bytes]`."""
    bits = nn.functional.pad((values > 0).to(torch.uint8), (0, -values.shape[1] % 8))
    weights = (1 << torch.arange(8, device=values.device)).to(torch.uint8)
    return (bits.view(len(bits), -1, 8) * weights).sum(dim=2, dtype=torch.uint8)


def unpack_signs(packed: Tensor, columns: int) -> Tensor:
    """The signs as 1 and -1: uint8 `[rows, bytes]` to float32 `[rows, columns]`."""
    # A look-up of eight numbers a byte: several times as fast as shifting and masking each bit.
    signs = nn.functional.embedding(packed.int(), _signs_of_bytes(packed.device))
    return signs.flatten(1)[:, :columns]


@cache
def _signs_of_bytes(device: torch.device) -> Tensor:
    """float32 `[256, 8]`: the signs that each byte stands for."""
    with torch.inference_mode(False):
        bits = torch.arange(256)[:, None] >> torch.arange(8) & 1
        return (2.0 * bits - 1.0).float().to(device)
