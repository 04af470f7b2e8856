"""The examples in docstrings run, and the room's page names the bounds with their defaults."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
from pathlib import Path

import pytest

from graftwork.serving.engine import EngineLimits

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


@pytest.mark.parametrize(
    "name", ["batch", "cache", "deadlines", "delta", "loading", "stats", "step_times", "texts", "trunk", "updates"]
)
def test_examples_in_docstrings(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(f"graftwork.serving.{name}"))
    assert outcome.attempted > 0
    assert outcome.failed == 0


@pytest.mark.parametrize("field", dataclasses.fields(EngineLimits), ids=lambda field: field.name)
def test_the_page_tells_every_bound_and_its_default(field: dataclasses.Field[object]) -> None:
    value = getattr(EngineLimits(), field.name)
    default = {"{}": "none", str(1 << 30): "1 GiB", str(256 << 20): "256 MiB"}.get(str(value)) or f"{value:,}"
    assert f"| `{field.name}` | {default} |" in PAGE.read_text("utf-8")
