from __future__ import annotations

import numpy as np

from graftwork.training.batches import epoch_batches, micro_batches


def test_an_epoch_holds_every_row_once_in_batches_of_similar_length() -> None:
    lengths = np.random.default_rng(0).integers(2, 100, 333)
    batches = epoch_batches(lengths, 16, seed=0, epoch=1)
    assert sorted(row for batch in batches for row in batch) == list(range(333))
    assert max(map(len, batches)) == 16
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    shuffled = np.random.default_rng(0).permutation(333)
    plain = sum(
        len(part) * lengths[part].max() for part in (shuffled[start : start + 16] for start in range(0, 333, 16))
    )
    assert padded < 0.75 * plain
    assert batches == epoch_batches(lengths, 16, seed=0, epoch=1)
    assert batches != epoch_batches(lengths, 16, seed=0, epoch=2)
    assert batches != epoch_batches(lengths, 16, seed=1, epoch=1)


def test_parts_of_a_batch() -> None:
    assert micro_batches([5, 1, 4, 2, 3], 2) == [[5, 1], [4, 2], [3]]
    assert micro_batches([5, 1], 9) == [[5, 1]]
