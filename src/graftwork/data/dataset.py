"""Labelled texts in memory, each remembering the row it came from."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from graftwork.data.findings import Finding
from graftwork.data.media import Modality, modality_of


@dataclass(frozen=True)
class Dataset:
    """Labelled texts.

    Attributes:
        texts: the texts, as they were read; or media in their place (see `data.media`).
        labels: one label a text.
        rows: where each text stood in its source, counted from 1 as an editor shows it (a CSV's header is row 1).
        source: the file or object they came from, for messages.
        notes: what the reader decided by itself (an encoding, numbers taken as labels); `check_dataset` reports them.

    Example:
        >>> data = Dataset(("it works", "it broke"), ("good", "bad"), rows=(2, 3), source="reviews.csv")
        >>> data.label_names
        ('bad', 'good')
        >>> data.select([1]).texts
        ('it broke',)
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    rows: tuple[int, ...]
    source: str
    notes: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.texts) == len(self.labels) == len(self.rows):
            raise ValueError("texts, labels and rows differ in length")

    @classmethod
    def from_lists(cls, texts: Sequence[str], labels: Sequence[str], source: str = "memory") -> Dataset:
        """Build a dataset from two lists of equal length; rows count from 1."""
        return cls(tuple(texts), tuple(labels), tuple(range(1, len(texts) + 1)), source)

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def modality(self) -> Modality:
        """What its texts are; they are all of one kind."""
        return modality_of(self.texts[0]) if self.texts else "text"

    @cached_property
    def label_names(self) -> tuple[str, ...]:
        """The distinct labels, sorted by code point: the order of every head trained on this."""
        return tuple(sorted(set(self.labels)))

    @cached_property
    def label_counts(self) -> Counter[str]:
        """Rows per label."""
        return Counter(self.labels)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over texts and labels in order; row numbers and the source's name do not count.

        Media count by their content, wherever the files are.
        """
        state = hashlib.sha256()
        for pair in zip(self.texts, self.labels, strict=True):
            state.update(json.dumps(pair, ensure_ascii=True).encode("ascii"))
        return state.hexdigest()

    def select(self, indices: Iterable[int]) -> Dataset:
        """The rows at these positions, in this order."""
        chosen = [int(i) for i in indices]
        return Dataset(
            tuple(self.texts[i] for i in chosen),
            tuple(self.labels[i] for i in chosen),
            tuple(self.rows[i] for i in chosen),
            self.source,
            self.notes,
        )
