"""Images and recordings to what a network reads: a subclass of `MediaReader` for each kind, and a line in `READERS`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftwork.backbones.batch import EncodedMedia, MediaBatch
from graftwork.data.media import Media, Modality
from graftwork.errors import DataError, DataRejected, Problem

Values = NDArray[Any]


class MediaReader:
    """What the preprocessing of all media has in common: every row has one shape, and nothing is padded.

    Args:
        shape: of what the network reads for one row.
        dtype: of what it reads.

    Attributes:
        modality: what it reads.
        argument: what the model's forward calls it.
        prompt: empty; media have none.
        tokens: places of the network's last hidden state, a row.
    """

    modality: Modality
    argument: str
    prompt = ""

    def __init__(self, *, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self._shape = shape
        self._dtype = dtype
        self.tokens = 1

    def prepare(self, media: Media) -> Values:
        """One item as a small array, which may be kept for a while: decoded, brought to size, not yet scaled.

        Raises:
            DataError: if it cannot be decoded.
        """
        raise NotImplementedError

    def scale(self, prepared: Tensor) -> Tensor:
        """Prepared items `[rows, ...]` as what the network reads, float32 `[rows, *shape]`."""
        raise NotImplementedError

    def encode(self, texts: Sequence[str], max_length: int) -> list[EncodedMedia]:
        """Each item made ready. What is in memory is decoded now; files are when a batch is made of them.

        Args:
            texts: the items.
            max_length: not used; media are brought to one size.

        Raises:
            DataRejected: for every item in memory that cannot be decoded.
        """
        problems: list[Problem] = []
        rows = []
        for number, media in enumerate(cast("Sequence[Media]", texts), start=1):
            load: Callable[[], Values] = _Later(self, media)
            if media.in_memory:
                try:
                    load = _Kept(self.prepare(media))
                except DataError as error:
                    problems.append(Problem(f"input {number}", f"{error.message} {error.remedy}"))
            rows.append(EncodedMedia.of(bytes.fromhex(media.partition(":")[2]), self.tokens, load))
        if problems:
            raise DataRejected(
                f"{len(problems)} of {len(texts)} inputs cannot be read",
                problems=problems[:20],
                remedy="Leave them out.",
            )
        return rows

    def collate(self, rows: Sequence[Sequence[int]], device: torch.device) -> MediaBatch:
        """A batch of rows from `encode`."""
        prepared = np.stack([cast("EncodedMedia", row).load() for row in rows])
        return self._batch(self.scale(torch.from_numpy(prepared).to(device)).to(self._dtype))

    def outline(self, rows: Sequence[Sequence[int]], device: torch.device) -> MediaBatch:
        """A batch of that many rows without content: no layer above the first looks at it."""
        return self.blank(len(rows), device)

    def blank(self, rows: int, device: torch.device) -> MediaBatch:
        """Rows of nought."""
        one = torch.zeros((), dtype=self._dtype, device=device)
        return self._batch(one.expand(rows, *self._shape))

    def _batch(self, values: Tensor) -> MediaBatch:
        mask = torch.ones((len(values), self.tokens), dtype=torch.int64, device=values.device)
        return MediaBatch(values, mask, self.argument)


class _Kept:
    """Gives an array that is in memory."""

    def __init__(self, values: Values) -> None:
        self._values = values

    def __call__(self) -> Values:
        return self._values


class _Later:
    """Decodes a file each time it is asked for."""

    def __init__(self, reader: MediaReader, media: Media) -> None:
        self._reader, self._media = reader, media

    def __call__(self) -> Values:
        return self._reader.prepare(self._media)


def _images(folder: Path, dtype: torch.dtype) -> MediaReader:
    from graftwork.backbones.images import open_image_reader

    return open_image_reader(folder, dtype=dtype)


def _sounds(folder: Path, dtype: torch.dtype) -> MediaReader:
    from graftwork.backbones.sounds import open_sound_reader

    return open_sound_reader(folder, dtype=dtype)


READERS: dict[str, Callable[[Path, torch.dtype], MediaReader]] = {"pixel_values": _images, "input_features": _sounds}
"""What makes the inputs of a model, by the name of the argument that its forward reads."""
