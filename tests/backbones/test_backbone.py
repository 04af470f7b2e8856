"""Batches, pooling and embeddings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graftwork.backbones.backbone import Backbone, length_sorted_batches
from graftwork.backbones.load import load_backbone
from graftwork.errors import ModelUnreadable
from graftwork.registry.manifest import Pooling
from tests.backbones.conftest import open_backbone
from tests.backbones.tiny import ARCHITECTURES, CORPUS, LAYERS, WIDTH

Load = Callable[..., Backbone]


def test_a_backbone_is_frozen_and_knows_itself(backbone_of: Load) -> None:
    backbone = backbone_of("bert", prompt="query: ")
    assert not backbone.model.training
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert (backbone.width, backbone.num_layers, backbone.max_length) == (WIDTH, LAYERS, 64)
    assert (backbone.dtype, backbone.dtype_name, backbone.device.type) == (torch.float32, "float32", "cpu")
    assert backbone.layer_names == ("encoder.layer.0", "encoder.layer.1", "encoder.layer.2")
    assert all(
        backbone.model.get_submodule(name) is layer
        for name, layer in zip(backbone.layer_names, backbone.layers, strict=True)
    )
    assert backbone.prompt == "query: "
    assert backbone.encode(["fox"]) == backbone_of("bert").encode(["query: fox"])


def test_texts_are_never_longer_than_the_model_has_positions(backbone_of: Load) -> None:
    backbone = backbone_of("roberta")
    long = "the fox " * 200
    assert [len(ids) for ids in backbone.encode([long])] == [64]
    assert [len(ids) for ids in backbone.encode([long], max_length=1000)] == [64]
    assert [len(ids) for ids in backbone.encode([long], max_length=7)] == [7]
    assert torch.isfinite(backbone.embed([long])).all()


def test_rows_are_padded_on_the_right(backbone_of: Load) -> None:
    backbone = backbone_of("roberta")
    batch = backbone.collate([[0, 5, 2], [0, 2]])
    assert batch.arguments["input_ids"].tolist() == [[0, 5, 2], [0, 2, 1]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch.arguments["input_ids"].dtype == batch.attention_mask.dtype == torch.int64


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_vector_does_not_depend_on_its_neighbours(backbone_of: Load, architecture: str) -> None:
    backbone = backbone_of(architecture)
    texts = [*CORPUS, "", "fox"]
    together = backbone.embed(texts)
    alone = torch.cat([backbone.embed([text]) for text in texts])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_default_pooling_is_that_of_the_architecture(backbone_of: Load, architecture: str) -> None:
    backbone = backbone_of(architecture)
    ids = backbone.encode(["the quick brown fox"])
    with torch.no_grad():
        hidden = backbone.forward(backbone.collate(ids))[0]
    expected = hidden[-1] if architecture in ("gpt2", "llama") else hidden.mean(dim=0)
    torch.testing.assert_close(backbone.embed(["the quick brown fox"])[0], expected)


@pytest.mark.parametrize("mode", ["mean", "cls", "last"])
def test_pooling_takes_no_notice_of_padding(backbone_of: Load, mode: str) -> None:
    backbone = backbone_of("bert", pooling=mode)
    hidden = torch.tensor(
        [[[1.0, 2.0], [3.0, 6.0], [float("nan"), float("inf")]], [[1.0, 1.0], [2.0, 2.0], [6.0, 3.0]]]
    )
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    expected = {"mean": [[2.0, 4.0], [3.0, 2.0]], "cls": [[1.0, 2.0], [1.0, 1.0]], "last": [[3.0, 6.0], [6.0, 3.0]]}
    assert backbone.pool(hidden, mask).tolist() == expected[mode]


def test_normalised_vectors_have_length_one(backbone_of: Load) -> None:
    backbone = backbone_of("bert", normalize=True)
    assert backbone.pooling == Pooling(mode="mean", normalize=True)
    torch.testing.assert_close(backbone.embed(CORPUS).norm(dim=1), torch.ones(len(CORPUS)))


def test_vectors_are_float32_and_can_be_trained_on(backbone_of: Load) -> None:
    backbone = backbone_of("bert", dtype="bfloat16")
    assert backbone.dtype_name == "bfloat16"
    vectors = backbone.embed(CORPUS)
    assert (vectors.dtype, vectors.shape, vectors.device.type) == (torch.float32, (len(CORPUS), WIDTH), "cpu")
    head = torch.nn.Linear(WIDTH, 2)
    head(vectors).sum().backward()
    assert head.weight.grad is not None


def test_embeddings_come_in_the_order_of_the_texts_whatever_the_batches(backbone_of: Load) -> None:
    backbone = backbone_of("bert")
    texts = [*CORPUS, *(text[:11] for text in CORPUS)]
    done: list[int] = []
    small = backbone.embed(texts, batch_tokens=20, progress=done.append)
    torch.testing.assert_close(small, backbone.embed(texts), rtol=1e-4, atol=1e-5)
    assert len(done) > 1
    assert sum(done) == len(texts)
    assert backbone.embed([]).shape == (0, WIDTH)


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
def test_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = length_sorted_batches(lengths, budget)
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    for rows in batches:
        padded = len(rows) * max(lengths[row] for row in rows)
        assert padded <= budget or len(rows) == 1
    widths = [lengths[row] for rows in batches for row in rows]
    assert widths == sorted(widths, reverse=True)


def test_a_model_that_reads_something_else_than_was_registered_is_refused(saved: Callable[[str], Path]) -> None:
    metadata = open_metadata(saved("bert")).model_copy(update={"domain": "vision", "model_type": "vit"})
    with pytest.raises(ModelUnreadable, match="modality: is text, registered as image"):
        load_backbone(saved("bert"), fingerprint="0" * 64, tokenizer="0" * 64, metadata=metadata)


def test_a_folder_that_is_not_what_was_registered_is_refused(saved: Callable[[str], Path]) -> None:
    metadata = open_metadata(saved("bert")).model_copy(update={"layers": 12})
    with pytest.raises(ModelUnreadable, match="layers: is 3, registered as 12"):
        load_backbone(saved("bert"), fingerprint="0" * 64, tokenizer="0" * 64, metadata=metadata)


def open_metadata(folder: Path):
    from graftwork.backbones.inspect import inspect_model

    return inspect_model(folder).metadata


def test_a_loaded_backbone_does_not_leave_transformers_silent(saved: Callable[[str], Path]) -> None:
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.enable_progress_bar()
    try:
        open_backbone(saved("bert"))
        assert logging.is_progress_bar_enabled()
    finally:
        logging.disable_progress_bar()
    assert logging.get_verbosity() == before
