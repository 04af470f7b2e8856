"""A network of the same architecture with random weights: what training from scratch begins with."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from graftwork.backbones.backbone import Backbone, Batch
from graftwork.backbones.network import Network, untrained_model, with_stack

_GATHERED = 256  # rows: of the smallest feature maps, 4 by 4 places, they are 4,096 values a channel
_TOGETHER = 32  # of them at once


def batch_norms(backbone: Backbone) -> list[_BatchNorm]:
    """The batch norms of its network."""
    return [module for module in backbone.model.modules() if isinstance(module, _BatchNorm)]


class ScratchBackbone(Backbone):
    """A backbone whose weights are being trained from random ones, its batch norms among them.

    Where gradients are computed, batch norms divide by the statistics of the batch. Elsewhere they divide by those of
    the rows that it learns from under the weights of the moment, gathered anew when the weights have changed ("precise
    batch norm", Wu and Johnson, arXiv 2105.07576, section 3): running averages lag behind in the few steps of an epoch
    of a thousand rows. It is run whole: nothing of it is frozen, so that there is no trunk to split off.

    Args:
        network: with random weights.
        like: the backbone whose reader, pooling and sizes it has.
        learning: rows that it will be trained on, encoded.
    """

    def __init__(self, network: Network, like: Backbone, learning: Sequence[Sequence[int]]) -> None:
        super().__init__(
            network,
            like.reader,
            fingerprint=hashlib.sha256(f"from scratch: {like.fingerprint}".encode()).hexdigest(),
            tokenizer_digest=like.tokenizer_digest,
            pooling=like.pooling,
            max_length=like.max_length,
            width=like.width,
        )
        self._norms = batch_norms(self)
        for norm in self._norms:
            norm.momentum = None  # a mean of batches, each of the same weight
        chosen = np.random.default_rng(0).permutation(len(learning))[:_GATHERED]
        self._learning = [learning[place] for place in chosen]
        self._gathered = False

    def forward(self, batch: Batch) -> Tensor:
        """See `Backbone.forward`. A batch of one row has no statistics to learn from: it is divided by the rows'."""
        if torch.is_grad_enabled():
            self._gathered = False
            self._divide_by_the_batch(len(batch.attention_mask) > 1)
        elif not self._gathered:
            self._gather()
            self._gathered = True
        return super().forward(batch)

    def weights_changed(self) -> None:
        """Say that weights were put in place otherwise than by a step."""
        self._gathered = False

    def _gather(self) -> None:
        rows = self._learning if self._norms else []
        self._divide_by_the_batch(True)
        for norm in self._norms:
            norm.reset_running_stats()
        for places in np.array_split(np.arange(len(rows)), math.ceil(len(rows) / _TOGETHER)) if rows else ():
            super().forward(self.collate([rows[place] for place in places]))
        self._divide_by_the_batch(False)

    def _divide_by_the_batch(self, whether: bool) -> None:
        for norm in self._norms:
            norm.train(whether)


class KnownEmbedding(nn.Module):
    """The vectors of some tokens. Asked for another token, it raises IndexError.

    Vectors of tokens that no row has are moved by no step, and yet the norm of the gradient and AdamW go over all of
    them: of MiniLM's 22.7 million values they are a half.

    Args:
        whole: vectors of the whole vocabulary.
        tokens: those that are kept.
    """

    place: Tensor

    def __init__(self, whole: nn.Embedding, tokens: Iterable[int]) -> None:
        super().__init__()
        padding = [] if whole.padding_idx is None else [whole.padding_idx]
        kept = torch.tensor(sorted({*tokens, *padding}), device=whole.weight.device)
        place = torch.full((whole.num_embeddings,), -1, device=whole.weight.device)
        place[kept] = torch.arange(len(kept), device=whole.weight.device)
        self.weight = nn.Parameter(whole.weight.detach()[kept].clone(), requires_grad=False)
        self.register_buffer("place", place, persistent=False)
        self.padding_idx = int(place[padding[0]]) if padding else None

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors `[…, width]` of tokens `[…]`."""
        return nn.functional.embedding(self.place[ids], self.weight, self.padding_idx)


def scratch_backbone(
    backbone: Backbone,
    rows: Sequence[Sequence[int]] | None = None,
    *,
    learning: Sequence[Sequence[int]] = (),
) -> ScratchBackbone:
    """A backbone like another, tokenizer and pooling included, whose parameters are drawn anew.

    They are drawn by the architecture's own rules, from torch's global generator: seed that before. The other backbone
    stays as it is.

    Args:
        backbone: the one to be like.
        rows: all rows that it will ever read, encoded: tokens that are in none of them get no vector. By default every
            token of the vocabulary has one.
        learning: rows that it will be trained on, encoded; only a network with batch norms needs them.

    Raises:
        ModelUnsupported: if transformers cannot make the model from its configuration.
    """
    model = untrained_model(copy.deepcopy(backbone.model.config), dtype=backbone.dtype).to(backbone.device)
    network = with_stack(model, sample=backbone.sample)
    tokenizer = backbone.tokenizer
    if rows is not None and tokenizer is not None:
        whole = model.get_input_embeddings()
        if type(whole) is nn.Embedding:  # one of a subclass may do more than to look up
            model.set_input_embeddings(KnownEmbedding(whole, {tokenizer.pad_id}.union(*rows)))
    return ScratchBackbone(network, backbone, learning)
