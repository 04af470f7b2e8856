from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.backbones.tiny import save_model
from tests.cli.running import Graft, furnish, run_graft
from tests.cli.samples import write_rows


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of random weights in a Hugging Face folder; nobody writes to it."""
    return save_model(tmp_path_factory.mktemp("models") / "tiny", "bert")


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty labelled rows of two classes that any model can tell apart."""
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.csv")


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, rows_file: Path) -> Path:
    """A home with the base model `tiny` and the adapter `acme/topics@1`, made by the command line itself."""
    return furnish(tmp_path_factory.mktemp("furnished"), tiny_folder, rows_file)


@pytest.fixture
def graft(monkeypatch: pytest.MonkeyPatch) -> Graft:
    """The command line over an empty home."""
    monkeypatch.setenv("GRAFT_DTYPE", "float32")
    return run_graft


@pytest.fixture
def home(furnished: Path, graft_home: Path, graft: Graft) -> Path:
    """A home of this test's own that is furnished."""
    shutil.copytree(furnished, graft_home, dirs_exist_ok=True)
    return graft_home
