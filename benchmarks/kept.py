"""What benchmarks of media models share: a model read in another way, drawn rows, and outcomes kept between runs."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone
    from graftwork.data.dataset import Dataset

CACHE = Path(".cache/graftwork")
_PREPROCESSOR = "preprocessor_config.json"
Outcome = TypeVar("Outcome")


@contextmanager
def reading_otherwise(model: Path, changes: dict[str, Any]) -> Iterator[Path]:
    """A folder of the same network whose preprocessing is another."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("config.json", "model.safetensors"):
            shutil.copy(model / file, folder)
        settings = json.loads((model / _PREPROCESSOR).read_text()) | changes
        (folder / _PREPROCESSOR).write_text(json.dumps(settings))
        yield folder


def open_backbone(model: Path, changes: dict[str, Any]) -> Backbone:
    """The backbone of a folder whose preprocessing is changed, in float32."""
    from graftwork.backbones.inspect import inspect_model
    from graftwork.backbones.load import load_backbone

    with reading_otherwise(model, changes) as folder:
        found = inspect_model(folder)
        return load_backbone(
            folder,
            fingerprint=found.fingerprint,
            tokenizer=found.tokenizer,
            metadata=found.metadata,
            dtype="float32",
        )


def drawn(rows: Dataset, count: int, seed: int) -> Dataset:
    """That many rows, in their order."""
    return rows.select(np.sort(np.random.default_rng(seed).permutation(len(rows))[:count]))


class Kept(Generic[Outcome]):
    """Outcomes that were measured before, one a line, and those that are added."""

    def __init__(self, name: str, kind: type[Outcome]) -> None:
        self._file, self._kind = CACHE / "bench" / f"{name}.jsonl", kind
        self._file.parent.mkdir(parents=True, exist_ok=True)

    def outcomes(self) -> list[Outcome]:
        """All that were kept."""
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        return [self._kind(**json.loads(line)) for line in lines]

    def add(self, outcome: Any) -> None:
        """Keep one more."""
        with self._file.open("a") as file:
            file.write(json.dumps(asdict(outcome)) + "\n")
