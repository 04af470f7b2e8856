"""The README's commands and code, run."""

from __future__ import annotations

import csv
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.conftest import CACHE, ROOT, Tour

pytestmark = [pytest.mark.journey, pytest.mark.timeout(900)]

README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def tweets(tmp_path: Path) -> Path:
    """The README's files of 200 tweets each, and the model's folder, where its commands find them."""
    with (CACHE / "datasets/sentiment/tweets/train.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    for place, name in enumerate(("tweets.csv", "more-tweets.csv", "fresh-tweets.csv")):
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([rows[0], *rows[1 + 200 * place : 201 + 200 * place]])
    (tmp_path / "all-MiniLM-L6-v2").symlink_to(CACHE / "models" / "minilm")
    return tmp_path


def test_the_commands_of_the_tour_work_in_their_order(tour: Tour, tweets: Path) -> None:
    lines = [line[2:].split("#")[0].strip() for block in blocks("console") for line in block.splitlines()]
    commands = [part for line in lines if line != "graft serve" for part in line.split(" && ")]
    assert len(commands) == 13
    for line in commands:
        done = tour.shell.run("bash", "-c", f"cd {shlex.quote(str(tweets))} && {line}", GRAFT_HOME=str(tweets / "home"))
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert done.stdout.rstrip() == "The registry is sound."


def test_the_code_of_other_clients_works_against_the_server(tour: Tour, monkeypatch: pytest.MonkeyPatch) -> None:
    code = next(block for block in blocks("python") if "OpenAI" in block)
    # Hugging Face's client refuses every address, this machine's own included, while it is told to stay offline.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with tour.shell.server() as url:
        *others, classify, embed = code.replace("http://127.0.0.1:8080", url).strip().splitlines()
        names: dict[str, Any] = {}
        exec("\n".join([*others, f"found = {classify}", f"vectors = {embed}"]), names)
    assert names["found"][0].label == "positive"
    assert len(names["vectors"].data[0].embedding) == 384


def test_the_python_code_trains_answers_and_publishes(
    tour: Tour, tweets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tweets / "tweets.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    monkeypatch.setenv("GRAFT_HOME", str(tour.shell.home))
    names: dict[str, Any] = {"texts": [row["text"] for row in rows], "labels": [row["label"] for row in rows]}
    before = len(tour.shell.json("lineage", "globex/mood")["children"])
    exec(next(block for block in blocks("python") if "TextClassifier" in block), names)
    assert set(names["mood"].classes_) == {"negative", "neutral", "positive"}
    assert tour.shell.json("show", "globex/mood")["digest"] == names["mood"].artifact_.digest
    assert before >= 1
    assert os.environ["GRAFT_HOME"] == str(tour.shell.home)


def test_every_folder_and_page_the_readme_names_is_there() -> None:
    listing = README[README.index("## Where things are") : README.index("State lives under")]
    for folder, page in re.findall(r"^      (\w+)/ .*?(docs/\w+\.md)", listing, re.MULTILINE):
        assert (ROOT / "src" / "graftwork" / folder).is_dir(), folder
        assert (ROOT / page).is_file(), page
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
    assert set(re.findall(r"docs/[\w-]+\.md", README)) == pages
    for link in re.findall(r"\]\((\w[\w./-]*)\)", README):
        assert (ROOT / link).exists(), link
