"""Rows of the tiny model's words."""

from __future__ import annotations

import csv
import random
from pathlib import Path

_WORDS = {
    "animal": ("quick", "brown", "fox", "jumps", "lazy", "dog", "over"),
    "legal": ("court", "granted", "appeal", "case", "refund", "parcel", "broken"),
}


def draw_rows(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Different texts of different lengths, `count` of each of two classes."""
    source = random.Random(seed)
    texts: dict[str, str] = {}
    for label, words in _WORDS.items():
        wanted = len(texts) + count
        while len(texts) < wanted:
            texts[" ".join(source.sample(words, source.randint(3, 6)))] = label
    return list(texts.items())


def write_rows(path: Path, count: int = 30, seed: int = 0) -> Path:
    """Write such rows as CSV and give the path back."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *draw_rows(count, seed)])
    return path
