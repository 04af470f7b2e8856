"""A network of the same architecture with random weights: what training from scratch begins with."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from graftwork.backbones.backbone import Backbone
from graftwork.backbones.network import untrained_model, with_stack


def trains_from_scratch(backbone: Backbone) -> bool:
    """Whether training can begin with random weights in a way that is fair to it.

    Batch normalisation divides by statistics that are gathered in pretraining. Fine-tuning keeps them as they are, and
    without them such a network would be measured at less than it can do.
    """
    return not any(isinstance(module, _BatchNorm) for module in backbone.model.modules())


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


def scratch_backbone(backbone: Backbone, rows: Sequence[Sequence[int]] | None = None) -> Backbone:
    """A backbone like another, tokenizer and pooling included, whose parameters are drawn anew.

    They are drawn by the architecture's own rules, from torch's global generator: seed that before. The other backbone
    stays as it is.

    Args:
        backbone: the one to be like.
        rows: all rows that it will ever read, encoded: tokens that are in none of them get no vector. By default every
            token of the vocabulary has one.

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
    return Backbone(
        network,
        backbone.reader,
        fingerprint=hashlib.sha256(f"from scratch: {backbone.fingerprint}".encode()).hexdigest(),
        tokenizer_digest=backbone.tokenizer_digest,
        pooling=backbone.pooling,
        max_length=backbone.max_length,
        width=backbone.width,
    )
