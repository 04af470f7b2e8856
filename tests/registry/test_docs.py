from __future__ import annotations

import ast
import doctest
import importlib
import re
from pathlib import Path

import pytest

import graftwork.registry

PACKAGE = Path(graftwork.registry.__file__).parent
PAGE = (PACKAGE.parents[2] / "docs" / "registry.md").read_text()


def test_every_file_is_on_the_page_and_every_file_on_the_page_exists() -> None:
    files = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"`([a-z_]+\.py)`", PAGE)) == files


def test_what_the_page_imports_can_be_imported() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    imports = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.ImportFrom)]
    assert len(imports) > 8
    for node in imports:
        module = importlib.import_module(node.module or "")
        assert all(hasattr(module, name.name) for name in node.names)


@pytest.mark.parametrize("name", sorted(path.stem for path in PACKAGE.glob("*.py")))
def test_examples_in_docstrings_are_true(name: str) -> None:
    module = importlib.import_module(f"graftwork.registry.{name}")
    assert doctest.testmod(module).failed == 0
