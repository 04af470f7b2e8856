"""docs/python.md is true: its code runs, and its tables name what there is."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graftwork import Client, TextClassifier
from graftwork.api.app import create_app
from graftwork.settings import load_settings
from graftwork.wiring import open_services
from tests.api.live import live
from tests.backbones.tiny import save_model
from tests.cli.running import run_graft

PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
ADDRESS = "http://127.0.0.1:8080"


@pytest.fixture
def server(graft_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server over a home in which a tiny model goes by the name of the real one."""
    monkeypatch.setenv("GRAFT_DTYPE", "float32")
    save_model(tmp_path / "model", "bert")
    assert run_graft(["base", "add", str(tmp_path / "model"), "--name", "minilm"]).code == 0
    with open_services(load_settings()) as services, live(create_app(services, services.engine())) as url:
        yield url


def test_the_code_of_the_page_runs(server: str) -> None:
    assert len(BLOCKS) == 5
    names: dict[str, Any] = {}
    for block in BLOCKS:
        exec(compile(block.replace(ADDRESS, server), "docs/python.md", "exec"), names)
    assert names["classifier"].classes_.tolist() == ["complaint", "praise"]
    assert np.isfinite(names["search"].best_score_)
    assert names["version"].reference == names["answers"].model == "acme/feedback@1"
    assert names["version"].digest == names["answers"].digest == names["classifier"].artifact_.digest
    local = names["classifier"].predict_proba(["the lamp came broken", "lovely, thank you"]).max(axis=1)
    assert names["mails"].classes_["urgent"].tolist() == [False, True]
    assert [answer.score for answer in names["answers"]] == pytest.approx(local.tolist(), abs=1e-4)


def test_the_tables_name_what_there_is() -> None:
    tables = [re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE) for part in PAGE.split("| attribute after")]
    assert tables[0] == list(inspect.signature(TextClassifier).parameters)
    assert tables[1] == re.findall(r"^ +(\w+_): ", inspect.getdoc(TextClassifier) or "", re.MULTILINE)
    public = [name for name in vars(Client) if not name.startswith("_") and name not in ("close", "healthy")]
    assert [name for name in public if f"client.{name}(" not in PAGE] == []
