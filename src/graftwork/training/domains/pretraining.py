"""Continued pretraining: a LoRA learns to guess masked tokens of both domains before it learns the labels.

The published folders of sentence encoders have no head for masked tokens, so one is made over the base's own input
embeddings: a square layer that begins as the identity, a norm, and a bias for each token. It alone is trained in the
first epoch, so that the LoRA does not have to turn the vectors towards the embeddings, and is dropped afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from graftwork.errors import SettingsInvalid
from graftwork.training.batches import epoch_batches
from graftwork.training.checkpoint import Checkpoint
from graftwork.training.domains.target import without_gradients
from graftwork.training.precision import accelerator_for
from graftwork.training.probe import fit_head
from graftwork.training.randomness import RandomState, own_randomness
from graftwork.training.schedule import rate_factor

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone
    from graftwork.training.progress import Progress
    from graftwork.training.runs import Run
    from graftwork.training.start import Start
    from graftwork.training.task import Task

STAGE = "pretraining"
_IGNORED = -100
_KEPT, _RANDOM = 0.1, 0.1  # of the chosen tokens: left as they are, replaced by any other (BERT, arXiv 1810.04805)
_CLIP = 1.0
_HEAD_RATE = 1e-3


def check_maskable(backbone: Backbone) -> None:
    """Refuse a base that cannot guess masked tokens.

    Raises:
        SettingsInvalid: if its tokenizer has no mask, or its embeddings are not as wide as its vectors.
    """
    embeddings = _embeddings(backbone)
    if backbone.texts_only("adapting to unlabelled rows").mask_id is None:
        raise SettingsInvalid(
            "continued pretraining guesses masked tokens, and this base's tokenizer has no mask token",
            remedy="Take a base that was pretrained with masks (BERT and its kin), or another --adaptation.",
        )
    if embeddings is None or embeddings.shape[1] != backbone.width:
        raise SettingsInvalid(
            "continued pretraining guesses tokens through the base's input embeddings, and they are not as wide as its "
            "vectors",
            remedy="Take another base, or another --adaptation.",
        )


def masked(
    ids: Sequence[Sequence[int]], *, mask: int, specials: frozenset[int], size: int, share: float, seed: Sequence[int]
) -> tuple[list[list[int]], list[list[int]]]:
    """Texts with some tokens hidden, and what stood there (-100 where nothing was hidden).

    Of the chosen tokens 80 % become the mask, 10 % any token, 10 % stay. A text of which none was chosen has one chosen
    if it has any that is not special. A function of the seed alone.

    Args:
        ids: token ids of each row.
        mask: id of the mask.
        specials: ids that are never chosen.
        size: of the vocabulary.
        share: of the tokens that are chosen.
        seed: several numbers.
    """
    random = np.random.default_rng(seed)
    inputs, truth = [], []
    for row in ids:
        tokens = np.asarray(row, dtype=np.int64)
        open_places = np.flatnonzero(~np.isin(tokens, list(specials)))
        chosen = open_places[random.random(len(open_places)) < share]
        if not len(chosen) and len(open_places):
            chosen = random.choice(open_places, 1)
        wanted = np.full(len(tokens), _IGNORED)
        wanted[chosen] = tokens[chosen]
        draw = random.random(len(chosen))
        hidden = np.where(draw < 1 - _KEPT - _RANDOM, mask, tokens[chosen])
        hidden = np.where(draw >= 1 - _RANDOM, random.integers(size, size=len(chosen)), hidden)
        tokens[chosen] = hidden
        inputs.append(tokens.tolist())
        truth.append(wanted.tolist())
    return inputs, truth


class TokenHead(nn.Module):
    """Guesses tokens from vectors through fixed embeddings `[tokens, width]`."""

    def __init__(self, embeddings: Tensor) -> None:
        super().__init__()
        width = embeddings.shape[1]
        self.turn = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(len(embeddings)))
        with torch.no_grad():
            self.turn.weight.copy_(torch.eye(width))
            self.turn.bias.zero_()
        self.to(embeddings.device)
        # No buffer: it is the base's own tensor, and moves and is stored with that.
        self._embeddings = (embeddings,)

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits `[rows, tokens]` of vectors `[rows, width]`."""
        turned: Tensor = self.norm(self.turn(vectors))
        return turned @ self._embeddings[0].float().T + self.bias


def pretrained(start: Start, rate: float, *, task: Task, texts: Sequence[str], progress: Progress, run: Run) -> Start:
    """The start with its LoRA pretrained on texts, and a head fitted to the vectors that it gives now.

    Args:
        start: a fresh LoRA.
        rate: highest rate of AdamW for the LoRA.
        task: what the run is made from.
        texts: of both domains.
        progress: told of every step and of the losses.
        run: where checkpoints and measurements go.

    Raises:
        SettingsInvalid: if the loss stops being finite.
        TrainingInterrupted: if the run was asked to stop.
    """
    with own_randomness(start.seed, start.backbone.device):
        _Pretraining(start, rate, task, texts, progress, run).run_to_the_end()
    prepared = task.prepared
    weight, bias = fit_head(
        without_gradients(start.train.activations, start.attachment, start.backbone.width),
        prepared.labels[prepared.train],
        classes=len(prepared.label_names),
        penalty=task.probe.penalty,
    )
    return replace(start, weight=weight, bias=bias, first_logits=None)


class _Pretraining:
    """Where it stands, and how it goes on."""

    def __init__(
        self, start: Start, rate: float, task: Task, texts: Sequence[str], progress: Progress, run: Run
    ) -> None:
        self._start = start
        self._backbone = start.backbone
        self._settings = task.config.domains
        self._progress = progress
        self._run = run
        self._ids = self._backbone.encode(texts, task.max_length)
        self._lengths = np.array([len(row) for row in self._ids], dtype=np.int64)
        embeddings = _embeddings(self._backbone)
        assert embeddings is not None
        self._head = TokenHead(embeddings)
        self._adapted = start.attachment.parameters()
        self._parameters = [*self._adapted, *self._head.parameters()]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": self._adapted, "peak": rate},
                {"params": list(self._head.parameters()), "peak": _HEAD_RATE},
            ],
            lr=rate,
            weight_decay=0.0,
        )
        self._steps_an_epoch = math.ceil(len(self._ids) / start.settings.batch_size)
        # The head has an epoch for itself.
        self._total = self._steps_an_epoch * (1 + self._settings.pretraining_epochs)
        self._stage = run.stage(STAGE, seconds=start.settings.checkpoint_seconds)
        self._steps = 0
        self._losses: list[float] = []

    def run_to_the_end(self) -> None:
        self._progress.stage("pretraining on masked tokens", self._total)
        self._load()
        batches: list[list[int]] = []
        epoch = 0
        with accelerator_for(self._backbone.device, self._start.settings.precision) as accelerator:
            while self._steps < self._total:
                if self._steps // self._steps_an_epoch + 1 != epoch:
                    epoch = self._steps // self._steps_an_epoch + 1
                    size = self._start.settings.batch_size
                    batches = epoch_batches(self._lengths, size, seed=self._start.seed, epoch=epoch)
                loss = self._step(batches[self._steps % self._steps_an_epoch], epoch, accelerator)
                self._progress.advance(1, loss=loss)
                if self._run.interruption.requested:
                    self._stage.save(self._steps, self._checkpoint)
                    self._run.stop_if_asked(f" after step {self._steps} of {self._total} of the pretraining")
                if self._stage.due(self._steps):
                    self._stage.save(self._steps, self._checkpoint)
        if self._stage.due(self._steps, handy=True):
            self._stage.save(self._steps, self._checkpoint)
        for parameter in self._adapted:
            parameter.grad = None
        first, last = (float(np.mean(part)) for part in (self._losses[:8], self._losses[-8:]))
        self._progress.note(f"guessing masked tokens: loss {first:.2f} at first, {last:.2f} at the end")

    def _step(self, rows: list[int], epoch: int, accelerator: Any) -> float:
        only_head = epoch == 1
        for parameter in self._adapted:
            parameter.requires_grad_(not only_head)
        within = self._steps - (0 if only_head else self._steps_an_epoch)
        total = self._steps_an_epoch if only_head else self._total - self._steps_an_epoch
        factor = rate_factor(within, total, warmup_share=self._start.settings.warmup_share, shape="linear")
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        loss = self._loss(rows, epoch, accelerator)
        if not math.isfinite(float(loss.detach())):
            raise SettingsInvalid(
                f"the loss of guessing masked tokens was not finite at step {self._steps + 1}; nothing was published",
                remedy="Lower fine_tuning.learning_rate.",
            )
        accelerator.backward(loss)
        torch.nn.utils.clip_grad_norm_([p for p in self._parameters if p.grad is not None], _CLIP)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._steps += 1
        self._losses.append(float(loss.detach()))
        measured = {"loss": self._losses[-1], "rate": factor, **self._run.stepped()}
        self._run.metrics.log(STAGE, self._steps, measured)
        return self._losses[-1]

    def _loss(self, rows: list[int], epoch: int, accelerator: Any) -> Tensor:
        tokenizer, backbone = self._backbone.texts_only("adapting to unlabelled rows"), self._backbone
        assert tokenizer.mask_id is not None
        inputs, truth = masked(
            [self._ids[row] for row in rows],
            mask=tokenizer.mask_id,
            specials=tokenizer.special_ids,
            size=tokenizer.size,
            share=self._settings.mask_share,
            seed=(self._start.seed, epoch, self._steps),
        )
        batch = backbone.collate(inputs)
        wanted = torch.full(batch.attention_mask.shape, _IGNORED, device=backbone.device)
        for place, row in enumerate(truth):
            wanted[place, : len(row)] = torch.tensor(row, device=backbone.device)
        self._start.attachment.train(True)
        try:
            with accelerator.autocast():
                hidden = backbone.forward(batch)
                chosen = wanted != _IGNORED
                logits = self._head(hidden[chosen].float())
        finally:
            self._start.attachment.train(False)
        return cross_entropy(logits.float(), wanted[chosen], reduction="sum") / max(1, int(chosen.sum()))

    def _checkpoint(self) -> Checkpoint:
        tensors = {f"parameter.{place}": value.detach().cpu().clone() for place, value in enumerate(self._parameters)}
        for place, parameter in enumerate(self._parameters):
            for name, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{place}.{name}"] = value.detach().cpu().clone()
        random = RandomState.now(self._backbone.device)
        tensors |= {f"random.{name}": value for name, value in random.tensors.items()}
        return Checkpoint(tensors, {"steps": self._steps, "losses": self._losses, "random": random.content})

    def _load(self) -> None:
        found = self._stage.load()
        self._run.metrics.rewind(STAGE, found.state["steps"] if found else -1)
        if found is None:
            return
        tensors = found.tensors
        with torch.no_grad():
            for place, parameter in enumerate(self._parameters):
                parameter.copy_(tensors[f"parameter.{place}"])
                prefix = f"optimizer.{place}."
                state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
                if state:
                    self._optimizer.state[parameter] = {
                        name: value if name == "step" else value.to(parameter.device) for name, value in state.items()
                    }
        random = {name.removeprefix("random."): v for name, v in tensors.items() if name.startswith("random.")}
        RandomState(random, found.state["random"]).restore(self._backbone.device)
        self._steps, self._losses = found.state["steps"], list(found.state["losses"])
        self._progress.note(f"resumed at step {self._steps} of {self._total} of the pretraining")
        self._progress.advance(self._steps)


def _embeddings(backbone: Backbone) -> Tensor | None:
    """The base's input embeddings `[tokens, width]`; None where the model does not give them."""
    find = getattr(backbone.model, "get_input_embeddings", None)
    weight = getattr(find() if find is not None else None, "weight", None)
    return weight if isinstance(weight, Tensor) and weight.ndim == 2 else None
