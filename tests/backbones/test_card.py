"""Model cards."""

from __future__ import annotations

from pathlib import Path

import pytest

from graftwork.backbones.card import read_card

CARD = """---
language: [en, de]
license: apache-2.0
pipeline_tag: sentence-similarity
datasets:
- snli
- gooaq
model-index:
- name: tiny
  results:
  - task: {type: classification}
    dataset: {name: Banking77, type: mteb/banking77}
    metrics:
    - {type: accuracy, value: 81.5}
    - {type: f1, value: 80.0}
  - dataset: {name: Broken}
    metrics: []
  - dataset: {name: Absent}
    metrics: [{type: accuracy, value: .nan}]
---

# tiny
A [small](https://example.org) model that
maps sentences to vectors.

## Usage
"""


def test_a_card_is_read(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(CARD)
    assert read_card(tmp_path) == {
        "languages": ("en", "de"),
        "license": "apache-2.0",
        "pretraining_data": "snli, gooaq",
        "description": "A small model that maps sentences to vectors.",
        "recommended_tasks": ("sentence-similarity",),
        "benchmarks": {"Banking77 accuracy": 81.5},
    }


@pytest.mark.parametrize("text", ["", "---\nlicense: [unclosed\n---\n", "---\n- a list\n---\n", "# Only a title\n"])
def test_a_card_without_facts_is_no_mistake(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(text)
    assert read_card(tmp_path) == {}


def test_no_card_and_a_card_that_is_not_text(tmp_path: Path) -> None:
    assert read_card(tmp_path) == {}
    (tmp_path / "README.md").write_bytes(b"\xff\xfe\x00")
    assert read_card(tmp_path) == {}


def test_long_descriptions_are_cut_at_a_word(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("word " * 200)
    description = read_card(tmp_path)["description"]
    assert len(description) <= 300
    assert description.endswith("word...")
