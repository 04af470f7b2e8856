"""A picture in letters: accuracy against seconds of training, one letter a candidate."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import NamedTuple

_COLUMNS, _LINES = 60, 12


class Point(NamedTuple):
    """One candidate in the picture.

    Attributes:
        seconds: of training, over 0.
        accuracy: expected.
        front: nobody beats it in both.
    """

    seconds: float
    accuracy: float
    front: bool


def letters(count: int) -> list[str]:
    """A letter for each of so many candidates, in their order; beyond 26 a dot."""
    return [*string.ascii_uppercase[:count], *["·"] * (count - 26)]


def draw_front(points: Sequence[Point]) -> list[str]:
    """Lines of a picture of points: seconds on a logarithmic axis to the right, accuracy upwards.

    Those on the front are capitals, the others small letters. Where several fall on one place the first is drawn.

    Args:
        points: at least one; the first has the letter A.

    Example:
        >>> lines = draw_front([Point(1, 0.8, True), Point(10, 0.7, False)])
        >>> "A" in lines[0], "b" in lines[11]
        (True, True)
    """
    times = [math.log(point.seconds) for point in points]
    heights = [point.accuracy for point in points]
    canvas = [[" "] * _COLUMNS for _ in range(_LINES)]
    for point, time, letter in reversed(list(zip(points, times, letters(len(points)), strict=True))):
        column = round(_place(time, times) * (_COLUMNS - 1))
        line = round((1 - _place(point.accuracy, heights)) * (_LINES - 1))
        canvas[line][column] = letter if point.front else letter.lower()
    top, bottom = f"{max(heights):.1%}", f"{min(heights):.1%}"
    margin = max(len(top), len(bottom))
    sides = [top, *[""] * (_LINES - 2), bottom]
    lines = [f"{side:>{margin}} │{''.join(line)}".rstrip() for side, line in zip(sides, canvas, strict=True)]
    first, last = (f"{math.exp(edge):.3g} s" for edge in (min(times), max(times)))
    axis = f"{'':{margin}} └{'─' * _COLUMNS}"
    return [*lines, axis, f"{'':{margin}}  {first}{last:>{_COLUMNS - len(first)}}"]


def _place(value: float, among: Sequence[float]) -> float:
    """Where a value lies between the least and the greatest, 0 to 1; in the middle when there is but one."""
    low, high = min(among), max(among)
    return (value - low) / (high - low) if high > low else 0.5
