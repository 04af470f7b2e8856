from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.serving import heads as module
from graftwork.serving.heads import Head, apply_heads

WIDTH = 5


def head(classes: int, seed: int, temperature: float = 1.0) -> Head:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, WIDTH, generator=generator)
    return Head(weight, torch.randn(classes, generator=generator), temperature)


@pytest.mark.parametrize("packed", [True, False])
@settings(max_examples=40, deadline=None)
@given(
    made=st.lists(st.tuples(st.integers(2, 9), st.sampled_from([0.5, 1.0, 3.0])), min_size=1, max_size=5),
    data=st.data(),
)
def test_heads_of_any_class_counts_give_what_each_gives_alone(
    packed: bool, made: list[tuple[int, float]], data: st.DataObject
) -> None:
    heads = [head(classes, seed, temperature) for seed, (classes, temperature) in enumerate(made)]
    rows = data.draw(st.lists(st.sampled_from(heads), min_size=1, max_size=8))
    vectors = torch.randn(len(rows), WIDTH)
    with pytest.MonkeyPatch.context() as patch:
        if not packed:
            patch.setattr(module, "_PACKED_WEIGHTS", 0)
        got = apply_heads(vectors, rows)
    for vector, own, logits in zip(vectors, rows, got, strict=True):
        torch.testing.assert_close(logits, (own.weight @ vector + own.bias) / own.temperature)
