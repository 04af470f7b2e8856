from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from graftwork.backbones.attention import LayerPrefix, keys_and_values, prefixed
from graftwork.backbones.backbone import Backbone, Batch, TokenBatch
from graftwork.errors import ModelUnsupported
from tests.backbones.conftest import open_backbone
from tests.backbones.tiny import ARCHITECTURES, CORPUS, LAYERS, WIDTH, save_model

Backbones = Callable[..., Backbone]
# For each row how many keys and values it has, by layer; the second row has none, and no row any in layer 1.
LENGTHS = {0: (3, 0, 1, 2, 5), 2: (1, 0, 4, 5, 2)}


def random_prefixes(backbone: Backbone, lengths: Mapping[int, tuple[int, ...]]) -> dict[int, LayerPrefix]:
    generator = torch.Generator().manual_seed(5)
    attention = backbone.attention
    prefixes = {}
    for layer, of_rows in lengths.items():
        shape = (len(of_rows), attention.heads, max(of_rows), attention.head_width)
        keys, values = torch.randn(2, *shape, generator=generator)
        seen = torch.arange(max(of_rows)) < torch.tensor(of_rows)[:, None]
        prefixes[layer] = LayerPrefix(keys, values, seen)
    return prefixes


def plain_attention(prefixes: Mapping[int, LayerPrefix]) -> Callable[..., tuple[torch.Tensor, None]]:
    """Attention as the papers write it, one row and one head after the other."""

    def attend(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        **given: Any,
    ) -> tuple[torch.Tensor, None]:
        rows, heads, tokens, width = query.shape
        group = heads // key.shape[1]
        prefix = prefixes.get(module.layer_idx if hasattr(module, "layer_idx") else module.test_layer)
        output = torch.zeros(rows, tokens, heads, width)
        for row in range(rows):
            for head in range(heads):
                keys, values = key[row, head // group], value[row, head // group]
                masked = torch.zeros(tokens, tokens) if mask is None else mask[row if len(mask) > 1 else 0, 0]
                if prefix is not None:
                    assert prefix.seen is not None
                    own = prefix.seen[row]
                    keys = torch.cat([prefix.keys[row, head // group][own], keys])
                    values = torch.cat([prefix.values[row, head // group][own], values])
                    masked = torch.cat([torch.zeros(tokens, int(own.sum())), masked], dim=1)
                scale = given.get("scaling") or width**-0.5
                output[row, :, head] = torch.softmax(query[row, head] @ keys.T * scale + masked, dim=1) @ values
        return output, None

    return attend


def by_hand(
    backbone: Backbone, prefixes: Mapping[int, LayerPrefix], batch: Batch, patch: pytest.MonkeyPatch
) -> torch.Tensor:
    """The last hidden state by a copy of the model whose attention is the one above."""
    model: Any = copy.deepcopy(backbone.model)
    for layer, name in enumerate(backbone.layer_names):
        for module in model.get_submodule(name).modules():
            module.test_layer = layer
    model.config._attn_implementation = "eager"
    source = sys.modules[type(backbone.attention.modules[0]).__module__]
    patch.setattr(source, "eager_attention_forward", plain_attention(prefixes))
    with torch.no_grad():
        hidden = model(input_ids=batch.arguments["input_ids"], attention_mask=batch.attention_mask).last_hidden_state
    assert isinstance(hidden, torch.Tensor)
    return hidden


@pytest.mark.parametrize("same_length", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_row_attends_to_its_own_prefix_as_plain_attention_would(
    backbone_of: Backbones, architecture: str, same_length: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = backbone_of(architecture)
    ids = backbone.encode(CORPUS)
    # Padded rows have masks; rows of one length have none, and causal models then rely on a flag.
    batch = backbone.collate([row[:6] for row in ids] if same_length else ids)
    prefixes = random_prefixes(backbone, LENGTHS)
    with torch.no_grad():
        bare = backbone.forward(batch)
        with prefixed(backbone, prefixes):
            found = backbone.forward(batch)
    real = batch.attention_mask.bool()
    wanted = by_hand(backbone, prefixes, batch, monkeypatch)
    torch.testing.assert_close(found[real], wanted[real], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1][real[1]], bare[1][real[1]], atol=1e-5, rtol=1e-5)
    assert (found - bare).abs()[0][real[0]].amax() > 1e-2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_prefix_for_all_rows_is_the_same_as_a_copy_for_each(backbone_of: Backbones, architecture: str) -> None:
    backbone = backbone_of(architecture)
    batch = backbone.collate(backbone.encode(CORPUS))
    one = {
        layer: LayerPrefix(prefix.keys[0], prefix.values[0])
        for layer, prefix in random_prefixes(backbone, {0: (4,), 1: (2,)}).items()
    }
    copies = {
        layer: LayerPrefix(prefix.keys.expand(5, -1, -1, -1), prefix.values.expand(5, -1, -1, -1))
        for layer, prefix in one.items()
    }
    with torch.no_grad():
        with prefixed(backbone, one, offsets=4):
            shared = backbone.forward(batch)
        with prefixed(backbone, copies, offsets=[4] * 5):
            copied = backbone.forward(batch)
    assert torch.equal(shared, copied)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_backbone_is_restored_also_after_a_failure(backbone_of: Backbones, architecture: str) -> None:
    backbone = backbone_of(architecture)
    batch = backbone.collate(backbone.encode(CORPUS))
    fits = random_prefixes(backbone, LENGTHS)
    broken = {0: LayerPrefix(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))}
    config = copy.deepcopy(backbone.model.config.to_dict())  # type: ignore[union-attr,operator]
    implementation = backbone.model.config._attn_implementation  # type: ignore[union-attr]
    with torch.no_grad():
        before = backbone.forward(batch)
        with prefixed(backbone, fits, offsets=[3, 0, 1, 2, 5]):
            assert not torch.equal(backbone.forward(batch), before)
        with pytest.raises(RuntimeError), prefixed(backbone, broken, offsets=1):
            backbone.forward(batch)
        assert torch.equal(backbone.forward(batch), before)
    assert backbone.model.config.to_dict() == config  # type: ignore[union-attr,operator]
    assert backbone.model.config._attn_implementation == implementation == "sdpa"  # type: ignore[union-attr]
    assert not backbone.model._forward_pre_hooks


def test_the_keys_and_values_of_a_text_as_its_prefix_double_its_weight(backbone_of: Backbones) -> None:
    """What attends twice to the same keys and values finds the same: a check without any arithmetic of ours."""
    backbone = backbone_of("bert")
    batch = backbone.collate(backbone.encode(CORPUS[:1]))
    with torch.no_grad():
        seen = keys_and_values(backbone, batch)
        doubled = {layer: LayerPrefix(keys[0], values[0]) for layer, (keys, values) in enumerate(seen)}
        before = backbone.forward(batch)
        with prefixed(backbone, doubled):
            torch.testing.assert_close(backbone.forward(batch), before, atol=1e-5, rtol=1e-5)
    assert len(seen) == LAYERS
    assert {tuple(part.shape) for pair in seen for part in pair} == {
        (1, 4, len(batch.arguments["input_ids"][0]), WIDTH // 4)
    }


def test_a_mask_that_is_added_to_the_scores_is_extended_as_one_of_truth_values_is(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    batch = backbone.collate(backbone.encode(CORPUS))
    rows, tokens = batch.arguments["input_ids"].shape
    real = batch.attention_mask.bool()
    added = torch.zeros(rows, 4, tokens, tokens).masked_fill(~real[:, None, None], -torch.inf)
    with torch.no_grad(), prefixed(backbone, random_prefixes(backbone, LENGTHS)):
        wanted = backbone.forward(batch)
        found = backbone.forward(TokenBatch(batch.arguments["input_ids"], added))
    torch.testing.assert_close(found[real], wanted[real], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "heads", "moves"),
    [(name, 2 if name == "llama" else 4, name in ("gpt2", "llama")) for name in ARCHITECTURES],
)
def test_shapes_are_found_for_each_architecture(
    backbone_of: Backbones, architecture: str, heads: int, moves: bool
) -> None:
    attention = backbone_of(architecture).attention
    assert (attention.heads, attention.head_width, attention.width) == (heads, 8, heads * 8)
    assert len(set(attention.modules)) == LAYERS
    assert [attention.offset(5, split=split) for split in (0, 1)] == [5 if moves else 0, 0]


def test_tokens_beyond_the_table_of_positions_share_its_last_place(backbone_of: Backbones) -> None:
    backbone = backbone_of("gpt2")
    ids = backbone.encode([" ".join(CORPUS)])
    assert len(ids[0]) == 64
    with torch.no_grad(), prefixed(backbone, {}, offsets=10):
        moved = backbone.forward(backbone.collate(ids))
    asked = torch.tensor(ids)
    places = torch.arange(10, 74).clamp(max=65)[None]
    with torch.no_grad():
        wanted = backbone.model(asked, position_ids=places, attention_mask=torch.ones_like(asked)).last_hidden_state
    torch.testing.assert_close(moved, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [("t5", "its attention adds a position_bias"), ("mpnet", "do not call transformers' attention function")],
)
def test_attention_that_a_prefix_does_not_fit_is_refused_with_the_reason(
    architecture: str, reason: str, tmp_path: Path
) -> None:
    backbone = open_backbone(save_model(tmp_path, architecture))
    with pytest.raises(ModelUnsupported) as caught:
        _ = backbone.attention
    assert reason in str(caught.value)
