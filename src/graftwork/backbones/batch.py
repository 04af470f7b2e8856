"""What goes into a backbone: rows that were made ready one by one, and batches of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from numpy.typing import NDArray
from torch import Tensor

from graftwork.data.media import Modality

if TYPE_CHECKING:
    import torch


class Batch(Protocol):
    """What a network reads at once."""

    @property
    def attention_mask(self) -> Tensor:
        """int64 `[rows, tokens]`, 1 where the last hidden state means something and 0 for padding."""
        ...

    @property
    def arguments(self) -> dict[str, Tensor]:
        """What the model's forward is called with."""
        ...


@dataclass(frozen=True)
class TokenBatch:
    """Tokenised texts, padded on the right to the longest.

    Attributes:
        input_ids: int64 `[rows, tokens]`.
        attention_mask: int64 `[rows, tokens]`, 1 for a token and 0 for padding.
    """

    input_ids: Tensor
    attention_mask: Tensor

    @property
    def arguments(self) -> dict[str, Tensor]:
        """What the model's forward is called with."""
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}


@dataclass(frozen=True)
class MediaBatch:
    """Images or recordings, all of one shape.

    Attributes:
        values: `[rows, ...]` in the backbone's dtype: pixels `[rows, 3, height, width]`, a spectrogram `[rows, bins,
            frames]`.
        attention_mask: int64 `[rows, tokens]`, all ones: tokens are places of the last hidden state.
        argument: what the model's forward calls the values, such as `pixel_values`.
    """

    values: Tensor
    attention_mask: Tensor
    argument: str

    @property
    def arguments(self) -> dict[str, Tensor]:
        """What the model's forward is called with."""
        return {self.argument: self.values}


class EncodedMedia(tuple[int, ...]):
    """An image or a recording, made ready: the part of token ids is played by numbers that spell its digest.

    As with token ids, rows are the same when the numbers are, and there are as many of them as the last hidden state
    has places, so that a row's length is what it costs.

    Attributes:
        load: gives the array that the network reads, without the dimension of rows.
    """

    load: Callable[[], NDArray]  # type: ignore[type-arg]

    @classmethod
    def of(cls, identity: bytes, tokens: int, load: Callable[[], NDArray]) -> EncodedMedia:  # type: ignore[type-arg]
        """A row of `tokens` places.

        Args:
            identity: digest of the content; up to 8 bytes a token are used.
            tokens: its length.
            load: see the attribute.
        """
        words = [int.from_bytes(identity[at : at + 8], "little", signed=True) for at in range(0, len(identity), 8)]
        made = cls((words + [0] * tokens)[:tokens])
        made.load = load
        return made


class Reader(Protocol):
    """Makes inputs ready for a network: a tokenizer for texts, preprocessing for media. Any thread may use it.

    Attributes:
        modality: what it reads.
        prompt: text put before every input; empty for media.
    """

    modality: Modality
    prompt: str

    def encode(self, texts: Sequence[str], max_length: int) -> Sequence[Sequence[int]]:
        """Each input made ready: token ids, or `EncodedMedia`.

        Raises:
            DataRejected: for every input that cannot be read.
        """
        ...

    def collate(self, rows: Sequence[Sequence[int]], device: torch.device) -> Batch:
        """A batch of rows from `encode`."""
        ...

    def outline(self, rows: Sequence[Sequence[int]], device: torch.device) -> Batch:
        """A batch for a tail, to which the rows themselves are known already: of their shape, whatever the values."""
        ...
