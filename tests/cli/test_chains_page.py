"""docs/chains.md and docs/languages.md are true: their commands run one after the other."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import pytest

from tests.cli.running import Graft
from tests.cli.samples import draw_rows

DOCS = Path(__file__).parents[2] / "docs"
SWAPPED = {"animal": "legal", "legal": "animal"}


def test_the_commands_of_the_page_run(
    graft: Graft, graft_home: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(r"```bash\n(.*?)```", (DOCS / "chains.md").read_text("utf-8"), re.DOTALL)
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


def test_the_commands_of_the_page_of_languages_run(
    graft: Graft, graft_home: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(r"```bash\n(.*?)```", (DOCS / "languages.md").read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    models, captions = Path(".cache/graftwork/models"), Path("captions-by-language")
    models.mkdir(parents=True)
    (models / "e5").symlink_to(tiny_folder)
    for file, turned, seed in ((captions / "en/train", 0, 0), (captions / "ja/test", 1, 1), (Path("japanese"), 1, 2)):
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = [(text, SWAPPED[label] if turned else label) for text, label in draw_rows(40, seed)]
        with file.with_suffix(".csv").open("w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows([("text", "label"), *rows])
    done = [(line, graft(shlex.split(line)[1:])) for line in block.splitlines()]
    assert [(line, one.err) for line, one in done if one.code != 0] == []
    judged = [one.told for line, one in done if line.startswith("graft evaluate")]
    assert "By language" in judged[0]
    accuracies = [float(each) for told in judged for each in re.findall(r"acme/topics\S* (\d+\.\d) %", told)]
    assert [each > 50 for each in accuracies] == [False, True]
