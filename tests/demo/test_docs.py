"""The room's page tells what there is."""

from __future__ import annotations

from pathlib import Path

import pytest

import graftwork.demo
from graftwork.demo import DATASETS, MODELS

PAGE = (Path(__file__).parents[2] / "docs" / "demo.md").read_text("utf-8")


@pytest.mark.parametrize("name", [*graftwork.demo.__all__, *MODELS, *DATASETS])
def test_the_page_names_it(name):
    assert f"`{name}" in PAGE


@pytest.mark.parametrize("source", [*MODELS.values(), *DATASETS.values()], ids=[*MODELS, *DATASETS])
def test_the_page_names_the_pinned_version(source):
    for package in source.packages:
        assert f"{package.name} {package.version}" in PAGE
