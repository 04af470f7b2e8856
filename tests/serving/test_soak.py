"""The soak in small: what `python -m benchmarks.serving.soak` does with a million rows; and that it would notice."""

from __future__ import annotations

import pytest
import torch
from benchmarks.serving.soak import Size, run, told

from graftwork.serving.stacked import StackedAdapters

SMALL = Size(adapters=12, texts=80, versions=3)


def test_thousands_of_mixed_rows_are_all_what_peft_gives_alone() -> None:
    soaked = run(rows=1_500, seed=7, size=SMALL)
    assert soaked.tally.wrong == []
    assert soaked.tally.rows >= 1_500
    assert soaked.tally.cancelled + soaked.tally.expired > 0
    assert soaked.tally.largest < 1e-5
    stats = soaked.stats
    # Otherwise it would not have been what it is meant to be. Whether a trunk is shared depends on which rows meet in a
    # batch, and in so few rows it may be none: that is for the tests of the cache and for the soak in full.
    assert min(stats.host_evictions, stats.slot_evictions, stats.embedding_hits) > 0
    assert told(soaked)["wrong answers"] == "0"


def test_an_engine_that_mixes_up_slots_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    indices = StackedAdapters._indices

    def mixed_up(self: StackedAdapters, rows: object, rank: int, keys: object) -> torch.Tensor:
        slots = indices(self, rows, rank, keys)  # type: ignore[arg-type]
        return slots.roll(1)

    monkeypatch.setattr(StackedAdapters, "_indices", mixed_up)
    soaked = run(rows=200, seed=7, size=Size(adapters=4, texts=20, versions=2))
    assert any("is off by" in line for line in soaked.tally.wrong)
