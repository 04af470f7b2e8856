"""What the checks ask of a base model's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """What a tokenizer makes of one text.

    Attributes:
        length: tokens including special ones, before any cut.
        tokens: tokens without the special ones.
        unknown: how many of them are the unknown token.
        unknown_pieces: the surface strings that became the unknown token, in order.
        dropped: characters of the text that no token covers; white space and control characters do not count.
    """

    length: int
    tokens: int
    unknown: int
    unknown_pieces: tuple[str, ...]
    dropped: str


class TextTokenizer(Protocol):
    """A base model's own tokenizer, as far as the checks need it."""

    def measure(self, texts: Sequence[str]) -> list[TokenCounts]:
        """Count the tokens of each text."""
        ...
