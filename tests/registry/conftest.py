from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from graftwork.registry.base_rows import BaseModel
from tests.registry.builders import Registry


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    opened = Registry.open(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def base(registry: Registry) -> BaseModel:
    return registry.add_base().base
