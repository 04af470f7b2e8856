"""Frozen weights are pages of the model's file, not copies of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from graftwork.backbones.backbone import Backbone
from graftwork.registry.durable import write_file
from tests.backbones.conftest import open_backbone
from tests.backbones.tiny import save_model

Saved = Callable[[str], Path]


def mapped(backbone: Backbone, file: Path) -> list[bool]:
    """For each parameter whether it lies in a mapping of the file."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(file))]
    spans = [tuple(int(end, 16) for end in line[0].split("-")) for line in lines]
    return [any(a <= p.data_ptr() < b for a, b in spans) for p in backbone.model.parameters()]


def test_weights_in_the_dtype_of_the_file_are_its_pages(saved: Saved) -> None:
    file = saved("bert") / "model.safetensors"
    assert all(mapped(open_backbone(saved("bert")), file))
    assert not any(mapped(open_backbone(saved("bert"), dtype="bfloat16"), file))


def test_a_file_that_is_replaced_or_deleted_leaves_loaded_weights_alone(tmp_path: Path) -> None:
    """The caches write beside a file and rename: what was truncated under a mapping would kill the process."""
    file = save_model(tmp_path / "model", "bert") / "model.safetensors"
    backbone = open_backbone(file.parent)
    before = [parameter.clone() for parameter in backbone.model.parameters()]
    write_file(file, [b"shorter"], staging=tmp_path / "staging", durable=False)
    file.unlink()
    assert all(torch.equal(old, now) for old, now in zip(before, backbone.model.parameters(), strict=True))
