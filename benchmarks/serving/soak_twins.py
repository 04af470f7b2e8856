"""What the soak may answer: adapters of every kind, and what PEFT alone gives for each text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tests.backbones.tiny import CORPUS
from tests.serving.builders import ATTENTION, EVERY, Spec, make

from graftwork.backbones.backbone import Backbone
from graftwork.registry.artifact import Artifact
from graftwork.registry.manifest import Pooling

Rows = NDArray[np.float64]

_ODD = ("", " ", "?!", "fox\x00fox", "🦊 🦊", "a" * 300, "The FOX, the fox; the FOX.")
_POOLINGS = (None, None, None, Pooling(mode="cls"), Pooling(mode="last"), Pooling(mode="mean", normalize=True))


@dataclass(frozen=True)
class Twin:
    """What one adapter, or the base alone, answers to every text when nothing else is there.

    Attributes:
        digest: the adapter's; None for the base alone.
        labels: its labels; none for the base alone.
        logits: `[texts, classes]`, the temperature applied.
        vectors: `[texts, width]`, as pooled.
        unit: `[texts, width]`, of length one.
    """

    digest: str | None
    labels: tuple[str, ...]
    logits: Rows
    vectors: Rows

    @property
    def unit(self) -> Rows:
        """The vectors at length one."""
        unit: Rows = self.vectors / np.linalg.norm(self.vectors, axis=1, keepdims=True)
        return unit


def make_texts(count: int, seed: int) -> list[str]:
    """Texts of 1 to 40 words, none twice, some odd ones among them."""
    random = np.random.default_rng(seed)
    words = sorted({word for text in CORPUS for word in text.split()})
    texts = dict.fromkeys(_ODD)
    while len(texts) < count:
        length = int(np.ceil(random.pareto(1.5) * 4)) % 40 + 1
        texts[" ".join(random.choice(words, length))] = None
    return list(texts)[:count]


def draw_specs(architecture: str, layers: int, count: int, seed: int) -> list[tuple[Spec, Pooling | None]]:
    """Adapters of mixed ranks, targets, layers, stored dtypes, lengths, class counts, temperatures and poolings."""
    random = np.random.default_rng(seed)

    def one_of(choices: Sequence[Any]) -> Any:
        return choices[int(random.integers(len(choices)))]

    every, attention = EVERY[architecture], ATTENTION[architecture]
    top = tuple(range(layers // 2, layers))
    drawn = []
    for number in range(count):
        head_only = number % 4 == 3
        spec = Spec(
            seed=seed * 10_000 + number,
            rank=one_of((1, 2, 4, 8, 9, 16)),
            alpha=one_of((2.0, 8.0, 16.0)),
            targets=None if head_only else one_of((attention, attention, every, every[-1:])),
            layers=one_of((None, None, top, top[-1:], (0,))),
            rslora=one_of((False, False, True)),
            classes=one_of((2, 3, 5, 17)),
            temperature=one_of((0.7, 1.0, 2.5)),
            max_length=one_of((5, 16, 64)),
            store=one_of((torch.float32, torch.float16, torch.bfloat16)),
        )
        drawn.append((spec, one_of(_POOLINGS)))
    return drawn


def make_twins(
    backbone: Backbone,
    specs: Sequence[tuple[Spec, Pooling | None]],
    texts: Sequence[str],
    told: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Artifact, Twin]]:
    """Each adapter as it is published, and its answers from PEFT on a copy of the base.

    Texts of equal length are run together, so that nothing is padded.
    """
    for spec, pooling in specs:
        made = make(backbone, spec, **({} if pooling is None else {"pooling": pooling}))
        vectors = _vectors(backbone, made.model, texts, spec.max_length, pooling or backbone.pooling)
        weight, bias = (part.double().numpy() for part in made.head)
        logits = (vectors @ weight.T + bias) / spec.temperature
        yield made.artifact, Twin(made.digest, made.artifact.manifest.labels, logits, vectors)
        told()


def base_twin(backbone: Backbone, texts: Sequence[str]) -> Twin:
    """The base's own vectors."""
    vectors = _vectors(backbone, backbone.model, texts, None, backbone.pooling)
    return Twin(None, (), np.empty((len(texts), 0)), vectors)


def _vectors(backbone: Backbone, model: Any, texts: Sequence[str], max_length: int | None, pooling: Pooling) -> Rows:
    encoded = backbone.encode(list(texts), max_length)
    by_length: dict[int, list[int]] = {}
    for row, tokens in enumerate(encoded):
        by_length.setdefault(len(tokens), []).append(row)
    vectors = np.empty((len(texts), backbone.width))
    for rows in by_length.values():
        ids = torch.tensor([encoded[row] for row in rows])
        with torch.no_grad():
            hidden = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        vectors[rows] = _pooled(hidden.double(), pooling).numpy()
    return vectors


def _pooled(hidden: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    pooled = {"mean": hidden.mean(dim=1), "cls": hidden[:, 0], "last": hidden[:, -1]}[pooling.mode]
    return torch.nn.functional.normalize(pooled, dim=1) if pooling.normalize else pooled
