"""Which rows are trained on together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SORTED = 1024  # rows that are sorted by length together: few enough to be others in every epoch of larger sets


def epoch_batches(lengths: NDArray[np.int64], size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Shuffled batches whose rows have similar lengths; every row once.

    A function of seed and epoch alone, so that a place among the batches is enough to go on from there.

    Args:
        lengths: tokens of each row `[rows]`.
        size: rows a batch at most.
        seed: of the run.
        epoch: counted from 1.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(lengths))
    batches: list[list[int]] = []
    together = size * max(1, _SORTED // size)
    for start in range(0, len(order), together):
        bucket = order[start : start + together]
        bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
        batches += [bucket[place : place + size].tolist() for place in range(0, len(bucket), size)]
    return [batches[int(place)] for place in random.permutation(len(batches))]


def micro_batches(rows: Sequence[int], size: int) -> list[list[int]]:
    """A batch in parts of `size` rows at most, in order.

    Example:
        >>> micro_batches([4, 2, 9], 2)
        [[4, 2], [9]]
    """
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]
