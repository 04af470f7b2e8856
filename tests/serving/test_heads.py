from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import ThreadpoolController

from graftwork.serving.heads import Head, apply_heads, one_thread_a_product

WIDTH = 5


def tensors(classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, WIDTH, generator=generator)
    return weight, torch.randn(classes, generator=generator)


@settings(max_examples=60)
@given(
    made=st.lists(st.tuples(st.integers(2, 9), st.sampled_from([0.5, 1.0, 3.0])), min_size=1, max_size=5),
    data=st.data(),
)
def test_heads_of_any_class_counts_give_what_each_gives_alone(
    made: list[tuple[int, float]], data: st.DataObject
) -> None:
    parts = [(*tensors(classes, seed), temperature) for seed, (classes, temperature) in enumerate(made)]
    heads = [Head(*part) for part in parts]
    rows = data.draw(st.lists(st.integers(0, len(heads) - 1), min_size=1, max_size=8))
    vectors = torch.randn(len(rows), WIDTH)
    got = apply_heads(list(vectors.numpy()), [heads[row] for row in rows])
    for vector, row, logits in zip(vectors, rows, got, strict=True):
        weight, bias, temperature = parts[row]
        np.testing.assert_allclose(logits, ((weight @ vector + bias) / temperature).numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(logits, heads[row].logits(vector.numpy()[None])[0], rtol=1e-6, atol=1e-6)
        assert logits.dtype == np.float32


def test_a_head_keeps_its_own_numbers_and_not_the_file_they_came_from() -> None:
    file = torch.zeros(1000)
    head = Head(file[:10].view(2, 5), file[10:12], 1.0)
    file[:] = 7
    assert head.logits(np.ones((1, 5), np.float32)).tolist() == [[0.0, 0.0]]
    assert head.nbytes == 8 * 12
    assert head.weight.base is None


def test_large_weights_that_cancel_leave_the_answer_exact() -> None:
    """A probe on vectors that are almost equal has such weights; float32 sums would be off by 1e-2 here."""
    generator = np.random.default_rng(0)
    weight = (generator.standard_normal((3, 384)) * 1e4).astype(np.float32)
    vectors = (1 + generator.standard_normal((4, 384)) * 1e-3).astype(np.float32)
    bias = -weight.sum(axis=1, dtype=np.float32)
    exact = (vectors.astype(np.longdouble) @ weight.astype(np.longdouble).T + bias) / np.longdouble(1.7)
    head = Head(weight, bias, 1.7)
    np.testing.assert_allclose(head.logits(vectors), exact.astype(np.float64), rtol=1e-7)
    np.testing.assert_allclose(apply_heads(list(vectors), [head] * 4), exact.astype(np.float64), rtol=1e-7)
    assert np.abs((vectors @ weight.T + bias) / np.float32(1.7) - exact).max() > 1e-3


@pytest.mark.parametrize("classes", [2, 16, 1000])
def test_answers_to_many_rows_at_once_are_those_to_each(classes: int) -> None:
    head = Head(*tensors(classes, 0), 0.7)
    vectors = np.random.default_rng(0).standard_normal((64, WIDTH)).astype(np.float32)
    alone = np.concatenate([head.logits(vector[None]) for vector in vectors])
    np.testing.assert_allclose(head.logits(vectors), alone, rtol=1e-6, atol=1e-6)


def test_numpy_multiplies_in_one_thread() -> None:
    one_thread_a_product()
    libraries = ThreadpoolController().select(internal_api="openblas").info()
    assert [library["num_threads"] for library in libraries] == [1] * len(libraries)
