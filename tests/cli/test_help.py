"""Every verb explains itself, and docs/cli.md is what they say.

`GRAFT_UPDATE_DOCS=1 pytest tests/cli/test_help.py` writes the page anew.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import typer.main
from rich.text import Text

from graftwork.cli import app

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
UPDATE = os.environ.get("GRAFT_UPDATE_DOCS") == "1"  # read before a fixture takes GRAFT_ variables away
BEGIN, END = "<!-- written by tests/cli/test_help.py: begin -->\n", "<!-- end -->\n"
ROOT = typer.main.get_command(app)


def verbs(command: Any = ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it, groups before their verbs."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from verbs(child, (*path, name))


VERBS = dict(verbs())
LEAVES = {path: command for path, command in VERBS.items() if not hasattr(command, "commands")}


def help_of(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> str:
    """The help text, eighty columns wide and without colours, blanks at line ends left out."""
    for name, value in (("COLUMNS", "80"), ("TERM", "dumb"), ("_TYPER_FORCE_DISABLE_TERMINAL", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    monkeypatch.setattr("typer.rich_utils.FORCE_TERMINAL", False)
    said = StringIO()
    with redirect_stdout(said):
        ROOT.main([*path, "--help"], prog_name="graft", standalone_mode=False)
    return "\n".join(line.rstrip() for line in said.getvalue().splitlines()).strip() + "\n"


def examples_of(command: Any) -> list[str]:
    lines = Text.from_markup(command.epilog or "").plain.split("\n")
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_verb_has_examples_that_parse(path: tuple[str, ...]) -> None:
    examples = examples_of(LEAVES[path])
    assert examples
    for example in examples:
        command = example.partition("   ")[0].rpartition("| ")[2]  # without a remark behind, and what feeds it
        program, *words = [word for word in shlex.split(command) if not word.startswith("GRAFT_")]
        assert program == "graft"
        assert tuple(words[: len(path)]) == path
        LEAVES[path].make_context("graft", words[len(path) :])  # raises for what does not exist or is missing


def test_the_examples_of_the_whole_are_verbs() -> None:
    for example in examples_of(ROOT):
        words = shlex.split(example)[1:]
        path = next(p for p in LEAVES if tuple(words[: len(p)]) == p)
        LEAVES[path].make_context("graft", words[len(path) :])


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_verb_speaks_json_and_every_option_is_explained(path: tuple[str, ...]) -> None:
    parameters = {option: parameter for parameter in LEAVES[path].params for option in parameter.opts}
    if path != ("demo",):  # it tells a story
        assert "--json" in parameters
    assert [name for name, parameter in parameters.items() if not parameter.help] == []
    assert LEAVES[path].help


def test_completion_is_offered() -> None:
    options = {option for parameter in ROOT.params for option in parameter.opts}
    assert {"--install-completion", "--show-completion", "--version"} <= options


def test_the_page_is_what_the_verbs_say(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [
        f"### graft {' '.join(path)}".rstrip() + f"\n\n```text\n{help_of(path, monkeypatch)}```\n\n" for path in VERBS
    ]
    written = PAGE.read_text("utf-8")
    before, found, rest = written.partition(BEGIN)
    assert found
    said = before + BEGIN + "\n" + "".join(parts) + END + rest.partition(END)[2]
    if UPDATE:
        PAGE.write_text(said, "utf-8")
    assert written == said or UPDATE, "docs/cli.md is behind: GRAFT_UPDATE_DOCS=1 pytest tests/cli/test_help.py"


def test_the_page_names_every_setting_of_an_installation() -> None:
    from graftwork.settings import Settings

    page = PAGE.read_text("utf-8")
    names = [f"`GRAFT_{name.upper()}`" for name in Settings.model_fields] + ["`GRAFT_DEBUG`"]
    assert [name for name in names if name not in page] == []
    assert set(re.findall(r"`(GRAFT_[A-Z_]+)`", page)) == {name.strip("`") for name in names}
