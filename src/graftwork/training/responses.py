"""Conversations as the loop trains on them: the loss of every response's tokens, row by row."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from graftwork.backbones.batch import TokenBatch
from graftwork.evaluation.replies import paired_token_loss
from graftwork.training.activations import Activations
from graftwork.training.objective import Objective

if TYPE_CHECKING:
    from graftwork.adaptation.strategy import Attachment
    from graftwork.backbones.causal import CausalModel
    from graftwork.backbones.chat import Rendered

LOSS, RIGHT = 0, 1  # columns of what is measured of a row
_CHUNK = 256  # positions whose logits are in memory at once: 50 MB of a vocabulary of 49,152


class ResponseActivations(Activations):
    """What the tail receives for each conversation; `vectors` are `[rows, 2]`, float32.

    The first column is the sum over a row's response tokens of their negative log-likelihood in nats, with gradients;
    the second the number of these tokens that are the most probable ones.

    Args:
        model: the causal model.
        rows: the conversations, encoded.
        split: index of the tail's first layer.
        memory: bytes that may be kept in memory.
        folder: for what is kept on disk.
    """

    def __init__(
        self, model: CausalModel, rows: Sequence[Rendered], *, split: int, memory: float, folder: Path | None = None
    ) -> None:
        super().__init__(model.backbone, [row.ids for row in rows], split=split, memory=memory, folder=folder)
        self._model = model
        self._wanted = [row.wanted for row in rows]
        self.columns = 2

    @property
    def identity(self) -> str:
        """SHA-256 over what they follow from, which tokens are learned among it."""
        digest = hashlib.sha256(super().identity.encode())
        for wanted in self._wanted:
            digest.update(np.asarray(wanted, dtype=np.bool_).tobytes())
        return digest.hexdigest()

    def vectors(self, rows: Sequence[int], attachment: Attachment) -> Tensor:
        """See the class; gradients flow to the delta in place."""
        hidden, batch = self.batch(rows)
        if min(attachment.depths(), default=0) < 0:
            top = self._backbone.forward(batch)
        else:
            top = self._backbone.tail(hidden, batch, self._split)
        assert isinstance(batch, TokenBatch)
        return response_losses(self._model, top, batch.input_ids, [self._wanted[row] for row in rows])


class TokenObjective(Objective):
    """Mean cross-entropy over all response tokens of a batch, however they are spread over its rows and parts.

    Targets are the numbers of response tokens of each row `[rows]`; what is judged are `ResponseActivations.vectors`.
    """

    start = "the unadapted base"

    def __init__(self, device: torch.device) -> None:
        super().__init__(None, 0.0, device)

    def total(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Sum over tokens, a scalar."""
        return logits[:, LOSS].sum()

    def weight_of(self, targets: Tensor) -> float:
        """Number of tokens."""
        return float(targets.sum())

    def validation_loss(self, logits: Tensor, targets: Tensor) -> float:
        """Nats a token."""
        return float(logits[:, LOSS].double().sum() / targets.sum())

    def accuracy(self, logits: Tensor, targets: Tensor) -> float:
        """Share of tokens that are the most probable."""
        return float(logits[:, RIGHT].double().sum() / targets.sum())

    def baseline(self, logits: NDArray[np.float64], labels: NDArray[np.int64]) -> StartLosses:
        """The unadapted base's losses."""
        return StartLosses(logits, labels)

    def of_start(self, labels: NDArray[np.int64], trained: NDArray[np.int64]) -> dict[str, float]:
        """How many tokens are learned from, and judged on."""
        return {"validation_tokens": float(labels.sum()), "training_tokens": float(trained.sum())}


class StartLosses:
    """The unadapted base's losses on the validation rows, to compare later ones with, row by row.

    Args:
        measured: `[rows, 2]`, as `ResponseActivations.vectors`.
        tokens: response tokens of each row `[rows]`.
    """

    def __init__(self, measured: NDArray[np.float64], tokens: NDArray[np.int64]) -> None:
        self._losses = measured[:, LOSS]
        self._tokens = tokens

    def above(self, logits: NDArray[np.float64]) -> bool:
        """Whether the base is better than these beyond chance (paired bootstrap by row, 95 %)."""
        if not np.isfinite(logits).all():
            return True
        return paired_token_loss(logits[:, LOSS], self._losses, self._tokens).low > 0


def response_losses(model: CausalModel, top: Tensor, ids: Tensor, wanted: Sequence[Sequence[bool]]) -> Tensor:
    """Loss and right tokens of each row's responses, `[rows, 2]` float32.

    Logits are made for positions before response tokens alone, some at a time, and made again on the way back.

    Args:
        model: gives logits of hidden states.
        top: the last hidden state `[rows, tokens, width]`.
        ids: token ids of the rows `[rows, tokens]`.
        wanted: which tokens of each row are learned; never the first.
    """
    places = [(row, place) for row, marks in enumerate(wanted) for place, mark in enumerate(marks) if mark]
    rows, positions = torch.tensor(places, dtype=torch.int64, device=top.device).reshape(-1, 2).T
    before, targets = top[rows, positions - 1], ids[rows, positions]

    def judged(hidden: Tensor, wanted_ids: Tensor) -> Tensor:
        logits = model.logits(hidden)
        losses = cross_entropy(logits, wanted_ids, reduction="none")
        return torch.stack([losses, (logits.detach().argmax(dim=1) == wanted_ids).float()], dim=1)

    pairs = list(zip(torch.split(before, _CHUNK), torch.split(targets, _CHUNK), strict=True))
    again = torch.is_grad_enabled() and len(pairs) > 1
    parts = [checkpoint(judged, *pair, use_reentrant=False) if again else judged(*pair) for pair in pairs]
    return torch.zeros((len(wanted), 2), device=top.device).index_add(0, rows, torch.cat(parts))


def measure_responses(model: CausalModel, rows: Sequence[Rendered]) -> NDArray[np.float64]:
    """The same of any number of rows, without gradients: `[rows, 2]` float64."""
    from graftwork.backbones.backbone import length_sorted_batches

    backbone = model.backbone
    measured = np.zeros((len(rows), 2))
    for places in length_sorted_batches([len(row.ids) for row in rows], backbone.batch_tokens):
        batch = backbone.collate([rows[place].ids for place in places])
        assert isinstance(batch, TokenBatch)
        marks = [rows[place].wanted for place in places]
        with torch.inference_mode():
            found = response_losses(model, backbone.forward(batch), batch.input_ids, marks)
        measured[places] = found.double().cpu().numpy()
    return measured
