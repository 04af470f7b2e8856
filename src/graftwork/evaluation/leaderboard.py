"""Adapters that were judged on the same rows, the best first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from graftwork.evaluation.results import Frozen, Interval
from graftwork.evaluation.transfer import generalisation_gap


@dataclass(frozen=True)
class Entry:
    """An adapter, or one of its tasks, as it was judged when it was trained.

    Attributes:
        reference: of the version.
        base: of the base model.
        strategy: how it was made.
        task: of several; None of an adapter of one.
        test_digest: of the rows it was judged on.
        test_rows: how many there were.
        accuracy: on them.
        size_bytes: stored.
        seconds: that training took; None where that is not known.
        transfer_ratio: of accuracy over that of the best training from scratch; None where it was not measured.
    """

    reference: str
    base: str
    strategy: str
    task: str | None
    test_digest: str
    test_rows: int
    accuracy: Interval
    size_bytes: int
    seconds: float | None
    transfer_ratio: Interval | None


class Placed(Frozen):
    """An entry in its place.

    Attributes:
        place: counted from 1; equal accuracies share it.
        reference: of the version.
        strategy: how it was made.
        task: of several.
        accuracy: on the test rows.
        behind: accuracy of the first less its own, with the interval of two independent proportions (Newcombe 1998).
        told_apart: whether the first is better beyond chance by that interval.
        size_bytes: stored.
        seconds: that training took.
        transfer_ratio: measured against training from scratch.
    """

    place: int
    reference: str
    strategy: str
    task: str | None
    accuracy: Interval
    behind: Interval
    told_apart: bool
    size_bytes: int
    seconds: float | None
    transfer_ratio: Interval | None


class Board(Frozen):
    """Adapters on one base that were judged on the same rows.

    Attributes:
        base: of all of them.
        test_digest: of the rows.
        test_rows: how many there are.
        entries: by falling accuracy, then by size.
    """

    base: str
    test_digest: str
    test_rows: int
    entries: tuple[Placed, ...]


def leaderboards(entries: Iterable[Entry]) -> tuple[Board, ...]:
    """A board for each base and set of test rows, by base and then by the number of adapters, most first."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.base, entry.test_digest), []).append(entry)
    boards = [_board(base, digest, group) for (base, digest), group in groups.items()]
    return tuple(sorted(boards, key=lambda board: (board.base, -len(board.entries), board.test_digest)))


def _board(base: str, digest: str, entries: list[Entry]) -> Board:
    ordered = sorted(entries, key=lambda entry: (-entry.accuracy.value, entry.size_bytes, entry.reference))
    first = ordered[0]
    placed = []
    for entry in ordered:
        # Answers on the same rows agree more often than independent ones, so this is wider than a paired interval.
        behind = generalisation_gap(first.accuracy, entry.accuracy)
        place = 1 + sum(other.accuracy.value > entry.accuracy.value for other in ordered)
        placed.append(
            Placed(
                place=place,
                reference=entry.reference,
                strategy=entry.strategy,
                task=entry.task,
                accuracy=entry.accuracy,
                behind=behind,
                told_apart=entry is not first and behind.low > 0,
                size_bytes=entry.size_bytes,
                seconds=entry.seconds,
                transfer_ratio=entry.transfer_ratio,
            )
        )
    return Board(base=base, test_digest=digest, test_rows=first.test_rows, entries=tuple(placed))
