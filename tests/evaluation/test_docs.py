"""The examples in docstrings run, and the room's page names everything public."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import graftwork.evaluation

MODULES = ["compare", "comparison", "evaluate", "intervals", "results", "temperature"]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    module = importlib.import_module(f"graftwork.evaluation.{name}")
    # Names in the examples are those of the module, and NumPy as everybody writes it.
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0


@pytest.mark.parametrize("name", graftwork.evaluation.__all__)
def test_the_page_names_it(name):
    page = Path(__file__).parents[2] / "docs" / "evaluation.md"
    assert f"`{name}" in page.read_text("utf-8")
