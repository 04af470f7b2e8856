from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import logging

from graftwork.backbones.backbone import Backbone
from graftwork.backbones.inspect import inspect_model
from graftwork.backbones.load import load_backbone
from graftwork.registry.manifest import BaseBits
from tests.backbones.tiny import save_model


@pytest.fixture(scope="session", autouse=True)
def _no_bars() -> None:
    logging.disable_progress_bar()


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A saved model of an architecture, built once; read only."""

    @cache
    def save(architecture: str) -> Path:
        return save_model(tmp_path_factory.mktemp(architecture), architecture)

    return save


def open_backbone(folder: Path, *, dtype: str = "float32", bits: BaseBits | None = None, **overrides: Any) -> Backbone:
    inspection = inspect_model(folder, **overrides)
    return load_backbone(
        folder,
        fingerprint=inspection.fingerprint,
        tokenizer=inspection.tokenizer,
        metadata=inspection.metadata,
        dtype=dtype,
        bits=bits,
    )


@pytest.fixture
def backbone_of(saved: Callable[[str], Path]) -> Callable[..., Backbone]:
    """A fresh backbone of an architecture, in float32 unless said otherwise."""

    def load(architecture: str, **options: Any) -> Backbone:
        return open_backbone(saved(architecture), **options)

    return load
