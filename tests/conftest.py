"""What every test stands on: no network, a home of its own, and the real model and texts for the journeys."""

from __future__ import annotations

import os

# Before anything imports Hugging Face libraries, which read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if "PYTEST_XDIST_WORKER" in os.environ:
    # Processes that each want all cores wait for one another at full speed, and take many times as long.
    os.environ["OMP_NUM_THREADS"] = "1"

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

TESTS = Path(__file__).parent
CACHE = TESTS.parent / ".cache" / "graftwork"
# Begun first, so that they are not what is left at the end.
LONGEST = ("tests/serving/test_compiled.py", "tests/journeys/test_tour.py")
# Waits for what the tour leaves, so it comes late; after it only short files, so that no process is idle at the end.
LATE = ("tests/journeys/test_readme.py",)
SHORT = ("tests/data/", "tests/demo/", "tests/evaluation/", "tests/registry/")


def _turn(item: pytest.Item) -> int:
    return next((turn for turn, names in ((0, LONGEST), (2, LATE), (3, SHORT)) if item.nodeid.startswith(names)), 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest first, the one that waits for another late, and the short ones last."""
    items.sort(key=_turn)


@pytest.fixture(autouse=True)
def graft_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder of this test alone; settings of the machine it runs on do not leak in."""
    for name in [name for name in os.environ if name.startswith("GRAFT_")]:
        monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("graft-home")
    monkeypatch.setenv("GRAFT_HOME", str(home))
    # Compiling keeps a core busy for some ten seconds; the tests that are about it ask for it.
    monkeypatch.setenv("GRAFT_COMPILE", "false")
    return home


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The real MiniLM encoder as a Hugging Face folder, fetched by the project's own code once."""
    from graftwork.demo.models import fetch_model

    return fetch_model("minilm", CACHE / "models")


@pytest.fixture(scope="session")
def datasets_folder() -> Path:
    """A folder with `bbc/{train,test}.csv` and `sentiment/tweets/{train,test}.csv`, fetched once."""
    from graftwork.demo.datasets import fetch_dataset

    for name in ("bbc", "sentiment"):
        fetch_dataset(name, CACHE / "datasets")
    return CACHE / "datasets"
