from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.backbones.conftest import backbone_of, saved

__all__ = ["backbone_of", "saved"]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Products of tiny models are so small that a second thread only waits, the longer the busier the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
