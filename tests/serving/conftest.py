from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from transformers.utils import logging

from graftwork.backbones.backbone import Backbone
from tests.backbones.conftest import open_backbone
from tests.backbones.tiny import save_model
from tests.serving.builders import Made, Spec, make


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    logging.disable_progress_bar()
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def backbone_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Backbone]:
    """A backbone of three narrow layers, loaded once; engines may hook it, nothing may change its weights."""

    @cache
    def load(architecture: str, dtype: str = "float32", **changes: Any) -> Backbone:
        folder = save_model(tmp_path_factory.mktemp(architecture), architecture, **changes)
        return open_backbone(folder, dtype=dtype)

    return load


@pytest.fixture(scope="session")
def bert(backbone_of: Callable[..., Backbone]) -> Backbone:
    backbone: Backbone = backbone_of("bert")
    return backbone


@pytest.fixture(scope="session")
def made() -> Callable[..., Made]:
    """Adapters by backbone and spec, made once."""

    @cache
    def get(backbone: Backbone, spec: Spec) -> Made:
        return make(backbone, spec)

    return get


@pytest.fixture(autouse=True)
def _base_untouched(bert: Backbone) -> Iterator[None]:
    """Whatever a test serves, the shared base's weights stay as they were."""
    before = {name: parameter.sum().item() for name, parameter in bert.model.named_parameters()}
    yield
    assert {name: parameter.sum().item() for name, parameter in bert.model.named_parameters()} == before
