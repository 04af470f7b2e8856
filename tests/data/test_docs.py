"""The examples in docstrings run, and the room's page names what there is."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "data.md").read_text("utf-8")
SOURCES = Path(__file__).parents[2] / "src" / "graftwork" / "data"


@pytest.mark.parametrize("name", ["check", "clean", "dataset", "languages", "rows", "similar", "split"])
def test_examples_in_docstrings(name):
    outcome = doctest.testmod(importlib.import_module(f"graftwork.data.{name}"))
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_the_page_lists_every_finding_there_is():
    written = "".join(path.read_text("utf-8") for path in SOURCES.glob("*.py"))
    codes = set(re.findall(r'(?:code=|finding\(\s*)"([a-z-]+)"', written)) | {"mixed-scripts", "mixed-languages"}
    assert len(codes) > 15
    assert {code for code in codes if f"`{code}`" not in PAGE} == set()


@pytest.mark.parametrize("path", sorted(SOURCES.glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_the_page_names_every_module(path):
    assert f"`{path.name}`" in PAGE
