"""docs/chains.md is true: its commands run one after the other."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import pytest

from tests.cli.running import Graft
from tests.cli.samples import draw_rows

PAGE = (Path(__file__).parents[2] / "docs" / "chains.md").read_text("utf-8")
SWAPPED = {"animal": "legal", "legal": "animal"}


def test_the_commands_of_the_page_run(
    graft: Graft, graft_home: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    assert graft(["base", "add", str(tiny_folder), "--name", "minilm"]).code == 0
    monkeypatch.chdir(tmp_path)
    # Each generation means the opposite of the one before, so that there is something to learn.
    for name, turned, seed in (("world", 0, 0), ("europe", 1, 1), ("user7", 0, 2), ("newer", 1, 3)):
        with Path(f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            rows = [(text, SWAPPED[label] if turned else label) for text, label in draw_rows(40, seed)]
            csv.writer(file).writerows([("text", "label"), *rows])
    done = [(line, graft(shlex.split(line)[1:])) for line in block.splitlines()]
    assert [(line, one.err) for line, one in done if one.code != 0] == []
    answers = {line.split()[2]: one.out for line, one in done if line.startswith("graft predict")}
    assert "has no adapter yet" not in answers["acme/mood~eu~user7"]
    assert "acme/mood~eu~user8 has no adapter yet: acme/mood~eu@1 answers for it." in answers["acme/mood~eu~user8"]
    assert graft(["show", "acme/mood~eu~user7", "--json"]).json["reference"] == "acme/mood~eu~user7@1"
