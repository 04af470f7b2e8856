"""Texts of real words: no two alike, or drawn again and again as people do."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

Encode = Callable[[Sequence[str]], Sequence[Sequence[int]]]


class Texts:
    """Makes texts of a fixed number of tokens.

    Args:
        corpus: a CSV file with a column `text`.
        encode: gives the token ids of texts, special tokens included.
        seed: of every choice.
    """

    def __init__(self, corpus: Path, encode: Encode, *, seed: int = 0) -> None:
        with corpus.open(newline="", encoding="utf-8") as file:
            words = {word for row in csv.DictReader(file) for word in re.findall("[a-z]+", row["text"].lower())}
        (nothing,) = encode([""])
        self._special = len(nothing)
        # Words of one token each, so that the number of tokens is known without asking.
        candidates = sorted(words)
        lengths = map(len, encode(candidates))
        self._words = [word for word, length in zip(candidates, lengths, strict=True) if length == self._special + 1]
        self._random = np.random.default_rng(seed)
        self._made: set[str] = set()

    def unique(self, count: int, tokens: int) -> list[str]:
        """Texts of so many tokens that this object never gave before."""
        words = tokens - self._special
        texts: list[str] = []
        while len(texts) < count:
            for choice in self._random.integers(len(self._words), size=(count - len(texts), words)):
                text = " ".join(map(self._words.__getitem__, choice))
                if text not in self._made:
                    self._made.add(text)
                    texts.append(text)
        return texts

    def zipf(self, texts: Sequence[str], count: int, exponent: float = 1.1) -> list[str]:
        """Draws from texts, the one of rank k with a probability in proportion to `1 / k ** exponent`."""
        weights = 1.0 / np.arange(1, len(texts) + 1) ** exponent
        picked = self._random.choice(len(texts), size=count, p=weights / weights.sum())
        return [texts[index] for index in picked]
