"""A pretrained model, frozen in memory, that turns inputs into vectors and can be split at any layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from graftwork.backbones.attention import AttentionStack, find_attention
from graftwork.backbones.batch import Batch, Reader, TokenBatch
from graftwork.backbones.device import dtype_name
from graftwork.backbones.network import Network
from graftwork.backbones.pooling import pool
from graftwork.backbones.tokenizer import Tokenizer
from graftwork.data.media import Modality, check_modality
from graftwork.errors import ModalityMismatch
from graftwork.registry.manifest import BaseBits, DTypeName, Pooling

__all__ = ["Backbone", "Batch", "TokenBatch", "length_sorted_batches"]

# Measured (docs/decisions/0022-batches.md): on a CPU larger batches leave its caches and cost up to three times more.
_CPU_BATCH_TOKENS = 1024
_ACCELERATOR_BATCH_TOKENS = 8192


class Backbone:
    """A base model, loaded and frozen.

    Inputs are texts, or what stands in their place (see `data.media`): what it reads is its reader's matter, and
    everything else is the same for all.

    `encode` and `collate` may be called from any thread. Everything that runs the model (`forward`, `trunk`, `tail`,
    `embed`) is for one thread at a time: a split works by standing in for layers of the one model in memory.

    Nothing here switches gradients off except `embed`: callers choose. A trunk computed under `torch.inference_mode`
    cannot take part in autograd; use `torch.no_grad` for activations that will be trained on.

    Attributes:
        fingerprint: the base model's identity.
        reader: makes inputs ready for it: its tokenizer, or the preprocessing of media.
        tokenizer_digest: SHA-256 of the tokenizer or the preprocessing.
        pooling: how token vectors become one vector an input.
        dtype: dtype of the parameters.
        bits: how the weights of linear layers are kept, when it is in fewer bits; what is computed has `dtype`.
        device: where they are.
        width: size of the vectors.
        num_layers: number of layers; splits go from 0 to this.
        max_length: tokens a text may have, special tokens included; of media the places of the last hidden state.
        batch_tokens: padded tokens in a batch that the device computes fastest, gradients aside.
        model: the network, without a head; no parameter asks for a gradient.
        layers: its layers, bottom first.
        layer_names: their dotted names in `model`.
        sample: a batch of two rows that mean nothing, for finding out how the model works.

    Example:
        >>> batch = backbone.collate(backbone.encode(["it works", "it broke"]))      # doctest: +SKIP
        >>> hidden = backbone.trunk(batch, split=4)                                  # doctest: +SKIP
        >>> torch.equal(backbone.tail(hidden, batch, split=4), backbone.forward(batch))  # doctest: +SKIP
        True
    """

    def __init__(
        self,
        network: Network,
        reader: Reader,
        *,
        fingerprint: str,
        tokenizer_digest: str,
        pooling: Pooling,
        max_length: int,
        width: int,
        bits: BaseBits | None = None,
    ) -> None:
        self._stack = network.stack
        self._attention_calls = network.attention_calls
        self.model: nn.Module = network.model
        self.layers = network.stack.layers
        self.layer_names = network.stack.names
        self.num_layers = len(network.stack)
        self.reader = reader
        self.sample = network.sample
        self.fingerprint = fingerprint
        self.tokenizer_digest = tokenizer_digest
        self.pooling = pooling
        self.max_length = max_length
        self.width = width
        self.bits = bits
        parameter = next(network.model.parameters())
        self.dtype = parameter.dtype
        self.device = parameter.device
        self.batch_tokens = _CPU_BATCH_TOKENS if self.device.type == "cpu" else _ACCELERATOR_BATCH_TOKENS

    @property
    def dtype_name(self) -> DTypeName:
        """The dtype as manifests spell it."""
        return dtype_name(self.dtype)

    @cached_property
    def attention(self) -> AttentionStack:
        """Where its layers attend; does not run the model.

        Raises:
            ModelUnsupported: if its attention cannot be given a prefix.
        """
        return find_attention(self.model, self.layers, self._attention_calls)

    @property
    def modality(self) -> Modality:
        """What it reads."""
        return self.reader.modality

    @property
    def tokenizer(self) -> Tokenizer | None:
        """Its tokenizer; None when it does not read texts."""
        return self.reader if isinstance(self.reader, Tokenizer) else None

    def texts_only(self, what: str) -> Tokenizer:
        """Its tokenizer, for what can be done with models of texts alone.

        Args:
            what: the thing that can be done, as the message calls it.

        Raises:
            ModalityMismatch: if it does not read texts.
        """
        if self.modality != "text":
            raise ModalityMismatch(
                f"{what} is for models of texts; this one reads {self.modality}s",
                remedy="Choose a base of domain nlp: `graft base list` shows the domains.",
            )
        return cast("Tokenizer", self.reader)

    @property
    def prompt(self) -> str:
        """Text that is put before every input."""
        return self.reader.prompt

    def encode(self, texts: Sequence[str], max_length: int | None = None) -> Sequence[Sequence[int]]:
        """Each input made ready: of a text its token ids, the prompt put before it, cut to `max_length`.

        The model's own limit is the default, and a `max_length` above it is lowered to it: the model has no positions
        beyond.

        Raises:
            ModalityMismatch: if an input is of another kind than the model reads.
            DataRejected: if one cannot be read.
        """
        if self.modality != "text" or {*map(type, texts)} != {str}:
            check_modality(texts, self.modality, reads="this base model")
        limit = self.max_length if max_length is None else min(max_length, self.max_length)
        return self.reader.encode(texts, limit)

    def collate(self, rows: Sequence[Sequence[int]]) -> Batch:
        """A batch of encoded rows on the backbone's device; texts are padded on the right to the longest."""
        return self.reader.collate(rows, self.device)

    def outline(self, rows: Sequence[Sequence[int]]) -> Batch:
        """A batch for `tail`, which knows the rows already: of their shape, and cheaper where values do not matter."""
        return self.reader.outline(rows, self.device)

    def forward(self, batch: Batch) -> Tensor:
        """The last hidden state `[rows, tokens, width]` in the backbone's dtype; rows of padding hold noise."""
        hidden = self.model(**batch.arguments).last_hidden_state
        assert isinstance(hidden, Tensor)
        return hidden

    def row_shape(self, split: int) -> tuple[int, ...] | None:
        """Shape of what layer `split` receives for one input; None when that is rows of tokens, `[tokens, width]`."""
        if self.modality == "text":
            return None
        with torch.no_grad():
            hidden = self.trunk(self.sample, split)
        return None if hidden.ndim == 3 else tuple(hidden.shape[1:])

    def trunk(self, batch: Batch, split: int) -> Tensor:
        """What layer `split` receives: `[rows, tokens, width]` in the backbone's dtype.

        Of a convolutional network it is `[rows, channels, height, width]`.

        At `split == num_layers` it is the last hidden state, after the final norm.
        """
        self._check_split(split)
        if split == self.num_layers:
            return self.forward(batch)
        return self._stack.trunk(lambda: self.forward(batch), split)

    def states(self, batch: Batch) -> list[Tensor]:
        """What each layer receives, and the last hidden state: `trunk` at every split, from one forward."""
        return self._stack.states(lambda: self.forward(batch))

    def tail(self, hidden: Tensor, batch: Batch, split: int) -> Tensor:
        """The last hidden state when layer `split` receives `hidden`: `[rows, tokens, width]`.

        Gradients flow to `hidden` and to whatever was injected into the layers from `split` up. In float32,
        `tail(trunk(batch, k), batch, k)` equals `forward(batch)` bit for bit.
        """
        self._check_split(split)
        if split == self.num_layers:
            return hidden
        result = self._stack.tail(lambda: self.forward(batch), hidden, split)
        assert isinstance(result, Tensor)
        return result

    def pool(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """One vector a row: `[rows, width]` float32, as `pooling` says.

        Args:
            hidden: last hidden state `[rows, tokens, width]`.
            attention_mask: `[rows, tokens]`, 1 for a token and 0 for padding on the right; no row all padding.
        """
        return pool(hidden, attention_mask, self.pooling)

    def embed(
        self,
        texts: Sequence[str],
        *,
        max_length: int | None = None,
        batch_tokens: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """The pooled vector of each input: `[texts, width]` float32 on the CPU, in the order given.

        Args:
            texts: the texts, or media.
            max_length: tokens kept of each; the model's own limit by default.
            batch_tokens: padded tokens computed at once; a single text may exceed it. By default what the device is
                fast at (see the attribute).
            progress: called after each batch with the number of texts it held.
        """
        ids = self.encode(texts, max_length)
        vectors = torch.empty((len(ids), self.width), dtype=torch.float32)
        for rows in length_sorted_batches([len(tokens) for tokens in ids], batch_tokens or self.batch_tokens):
            batch = self.collate([ids[row] for row in rows])
            with torch.inference_mode():
                vectors[rows] = self.pool(self.forward(batch), batch.attention_mask).cpu()
            if progress is not None:
                progress(len(rows))
        return vectors

    def _check_split(self, split: int) -> None:
        if not 0 <= split <= self.num_layers:
            raise ValueError(f"split {split} is outside 0..{self.num_layers}")


def length_sorted_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Group rows of like length, longest first, so that each group has at most `batch_tokens` padded tokens.

    Longest first, because memory that does not suffice then fails at once and not at the end.

    Args:
        lengths: tokens in each row.
        batch_tokens: most padded tokens in a group; a row that is longer is a group of its own.

    Returns:
        Groups of row indices; every row is in exactly one. Deterministic.

    Example:
        >>> length_sorted_batches([3, 9, 4, 2], batch_tokens=8)
        [[1], [2, 0], [3]]
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    batches: list[list[int]] = []
    width = 0
    for row in order:
        if not batches or (len(batches[-1]) + 1) * width > batch_tokens:
            batches.append([])
            width = max(lengths[row], 1)
        batches[-1].append(row)
    return batches
