"""One identity for what answers alike, another for everything else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from graftwork.backbones.fingerprint import base_fingerprint, tokenizer_digest
from graftwork.backbones.weights import read_tensors, sum_tensors
from graftwork.registry.manifest import Pooling
from tests.backbones.tiny import save_model

MEAN = Pooling(mode="mean")


def fingerprint(folder: Path, pooling: Pooling = MEAN, prompt: str = "", max_length: int = 64) -> str:
    tensors, problems = read_tensors(folder)
    assert problems == []
    return base_fingerprint(
        folder,
        tensors,
        sum_tensors(tensors),
        tokenizer=tokenizer_digest(folder),
        pooling=pooling,
        prompt=prompt,
        max_length=max_length,
    )


@pytest.fixture
def copy(saved: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved("bert"), tmp_path / "copy"))


def rewrite(file: Path, **changes: object) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps(dict(reversed((content | changes).items())), indent=7))


def test_sharding_layout_and_cards_do_not_count(saved: Callable[[str], Path], copy: Path, tmp_path: Path) -> None:
    original = fingerprint(saved("bert"))
    sharded = save_model(tmp_path / "sharded", "bert", shard="20KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    assert fingerprint(sharded) == original
    rewrite(copy / "config.json", _name_or_path="somewhere/else")
    rewrite(copy / "tokenizer.json", truncation=None, padding=None)
    (copy / "README.md").write_text("# A card")
    assert fingerprint(copy) == original


def test_one_changed_weight_is_another_base(saved: Callable[[str], Path], copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    name = "encoder.layer.0.attention.self.query.bias"
    tensors[name] = torch.nextafter(tensors[name], torch.tensor(9.0))
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(copy) != fingerprint(saved("bert"))


def test_shape_and_name_of_a_tensor_count(saved: Callable[[str], Path], copy: Path) -> None:
    found = {fingerprint(saved("bert"))}
    for change in ({"renamed": (32,)}, {"encoder.layer.0.output.dense.bias": (4, 8)}):
        tensors = load_file(saved("bert") / "model.safetensors")
        content = tensors.pop("encoder.layer.0.output.dense.bias")
        ((name, shape),) = change.items()
        save_file(tensors | {name: content.reshape(shape)}, copy / "model.safetensors")
        found.add(fingerprint(copy))
    assert len(found) == 3


def test_configuration_tokenizer_pooling_prompt_and_length_count(saved: Callable[[str], Path], copy: Path) -> None:
    original = saved("bert")
    found = [
        fingerprint(original),
        fingerprint(original, pooling=Pooling(mode="cls")),
        fingerprint(original, pooling=Pooling(mode="mean", normalize=True)),
        fingerprint(original, prompt="query: "),
        fingerprint(original, max_length=63),
    ]
    rewrite(copy / "config.json", hidden_act="relu")
    found.append(fingerprint(copy))
    shutil.copy(original / "config.json", copy)
    rewrite(copy / "tokenizer_config.json", do_lower_case=False)
    found.append(fingerprint(copy))
    assert len(set(found)) == len(found)


def test_the_digest_of_a_tokenizer_never_changes_with_a_library(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\nfox\n")
    (tmp_path / "tokenizer_config.json").write_text('{"b": "\\u00e9", "a": 1, "name_or_path": "x"}')
    # By hand: sha256sum of vocab.txt, of {"a":1,"b":"\\u00e9"}, and of the line of JSON that names both.
    assert tokenizer_digest(tmp_path) == "6fc981301fd4f40c6462d115bb982750d371637c1866192ef3de959f1d663e5f"
