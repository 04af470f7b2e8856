"""What every estimator of scikit-learn's kind here is made of: settings, the shared backbone, publishing."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from graftwork.backbones.inspect import inspect_model
from graftwork.backbones.load import load_backbone
from graftwork.errors import Problem, SettingsInvalid
from graftwork.settings import Settings, load_settings
from graftwork.training.config import TrainingConfig
from graftwork.wiring import open_services

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone
    from graftwork.registry.versions import AdapterVersion


class AdaptingEstimator(BaseEstimator):  # type: ignore[misc]
    """An estimator whose fit gives an adapter, `artifact_`.

    Args:
        base: a base model of the registry, or a folder in Hugging Face layout.
        strategy: `auto`, `feature-extraction`, `lora`, `prefix-tuning`, `partial` or `full`.
        seed: of every random choice.
        max_length: tokens kept of a text; the base's own limit by default.
        settings: further training settings by dotted name, such as `{"lora.rank": 4}`.
        home: the installation's folder; `GRAFT_HOME` by default.
    """

    def __init__(
        self,
        base: str | Path = "minilm",
        strategy: str = "auto",
        *,
        seed: int = 0,
        max_length: int | None = None,
        settings: Mapping[str, Any] | None = None,
        home: str | Path | None = None,
    ) -> None:
        self.base = base
        self.strategy = strategy
        self.seed = seed
        self.max_length = max_length
        self.settings = settings
        self.home = home

    def publish(self, name: str, *, expected_latest: int | None = None) -> AdapterVersion:
        """Publish the fitted classifier as the next version of `tenant/name` in the registry.

        Raises:
            NotFound: if the base model is not in the registry (it was given as a folder): `graft base add` adds it.
            Conflict: if `expected_latest` is not the newest version.
        """
        artifact = self._fitted()
        with open_services(self._settings()) as services:
            return services.catalog.publish(name, artifact, expected_latest=expected_latest)

    def _fitted(self) -> Any:
        if not hasattr(self, "artifact_"):
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet; call fit first")
        return self.artifact_

    def _settings(self) -> Settings:
        return load_settings(home=Path(self.home) if self.home is not None else None)

    def _config(self) -> TrainingConfig:
        values: dict[str, Any] = {"strategy": self.strategy, "seed": self.seed, "max_length": self.max_length}
        taken = [Problem(name, "is an argument of its own") for name in values if name in (self.settings or {})]
        if taken:
            raise SettingsInvalid("settings name it twice", problems=taken, remedy="Give it as the argument alone.")
        values["test_share"] = 0.0
        for name, value in (self.settings or {}).items():
            *path, last = str(name).split(".")
            place = values
            for part in path:
                below = place.get(part)
                place[part] = place = dict(below) if isinstance(below, Mapping) else {}
            place[last] = value
        return TrainingConfig.parse(**_plain(values))

    def _backbone(self) -> Backbone:
        settings = self._settings()
        folder = Path(self.base)
        if folder.is_dir():
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            state = tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)
            return _remembered((state, settings), lambda: _from_folder(folder, settings))
        with open_services(settings) as services:
            base = services.bases.resolve(str(self.base))
            key = (base.fingerprint, base.metadata.model_dump_json(), settings)
            return _remembered(key, lambda: services.backbone(base))


_REMEMBERED = 4
_backbones: OrderedDict[Hashable, Backbone] = OrderedDict()
_loading = threading.Lock()


def _remembered(key: Hashable, load: Callable[[], Backbone]) -> Backbone:
    """The backbone of that content, once a process: cross-validation makes many estimators over the same one."""
    with _loading:
        if key not in _backbones:
            _backbones[key] = load()
        _backbones.move_to_end(key)
        while len(_backbones) > _REMEMBERED:
            _backbones.popitem(last=False)
        return _backbones[key]


def _from_folder(folder: Path, settings: Settings) -> Backbone:
    found = inspect_model(folder)
    return load_backbone(
        folder,
        fingerprint=found.fingerprint,
        tokenizer=found.tokenizer,
        metadata=found.metadata,
        dtype=settings.dtype,
        device=settings.device,
    )


def _plain(value: Any) -> Any:
    """Without NumPy's numbers, which searches over parameters like to give."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return value.item() if isinstance(value, np.generic) else value
