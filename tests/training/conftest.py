from __future__ import annotations

from tests.backbones.conftest import backbone_of, saved

__all__ = ["backbone_of", "saved"]
