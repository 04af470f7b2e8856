"""A batch in the making: rows of one base model and of similar length, within the budgets of a batch."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from graftwork.serving.request import Pending, Row

# Lengths are of one class up to each of these; a batch takes rows of neighbouring classes, so that no row is padded to
# much more than twice its length.
LENGTH_CLASSES = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
CLASSES_TOGETHER = 3


@dataclass(frozen=True, slots=True)
class Task:
    """A row in a batch, and the request it belongs to."""

    pending: Pending
    index: int

    @property
    def row(self) -> Row:
        """The row itself."""
        return self.pending.rows[self.index]


@dataclass
class Draft:
    """A batch that is being filled.

    Attributes:
        tokens: most padded tokens; a single longer row is a batch of its own.
        rows: most rows.
        tasks: the rows it has.
        longest: tokens of the longest of them, to which all are padded.
        full: the next row had no room.
    """

    tokens: int
    rows: int
    tasks: list[Task] = field(default_factory=list)
    longest: int = 0
    full: bool = False

    @property
    def padded(self) -> int:
        """The tokens that are computed for what it holds."""
        return len(self.tasks) * self.longest

    def take(self, pending: Pending, length_class: int, allowance: int) -> int:
        """Take a request's rows of a length class until they have spent the allowance; returns their tokens."""
        taken = 0
        while taken < allowance and not self.full:
            index = pending.next_row(length_class)
            if index is None:
                break
            length = len(pending.rows[index].ids)
            count, longest = len(self.tasks) + 1, max(self.longest, length)
            if count > 1 and (count > self.rows or count * longest > self.tokens):
                self.full = True
                break
            pending.take_row(length_class)
            self.tasks.append(Task(pending, index))
            self.longest = longest
            taken += length
        return taken


def length_class(tokens: int) -> int:
    """The class of rows that may be padded to one another.

    Example:
        >>> [length_class(tokens) for tokens in (1, 16, 17, 512)]
        [0, 0, 1, 10]
    """
    return bisect_left(LENGTH_CLASSES, tokens)


def longest_of(length_class: int) -> int:
    """The most tokens of a row of a class; the last class has no end and counts as twice the one before."""
    return LENGTH_CLASSES[length_class] if length_class < len(LENGTH_CLASSES) else 2 * LENGTH_CLASSES[-1]
