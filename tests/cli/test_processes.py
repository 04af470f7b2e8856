"""The installed command as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from graftwork import Client
from tests.cli.running import environment, spawn_graft

HEAVY = ("torch", "transformers", "sklearn", "pydantic", "sqlalchemy", "numpy", "peft", "yaml", "fastapi", "httpx")


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; sys.argv = ['graft', '--help']\n"
        "import graftwork, graftwork.cli\n"
        "try:\n"
        "    graftwork.cli.main()\n"
        "except SystemExit as ended:\n"
        "    assert ended.code == 0\n"
        f"sys.stderr.write(' '.join(sorted(set({HEAVY}) & set(sys.modules))))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Usage: graft" in done.stdout
    assert done.stderr == ""


def test_exit_codes_and_streams_of_the_real_command(home: Path) -> None:
    listed = spawn_graft(["list", "--json"])
    assert [version["reference"] for version in listed.json] == ["acme/topics@1"]
    assert listed.err == ""
    missing = spawn_graft(["show", "acme/none", "--json"])
    assert (missing.code, missing.error["code"]) == (2, "not-found")
    assert spawn_graft(["show"]).code == 2


def test_a_reader_that_goes_away_is_no_error(home: Path) -> None:
    for verb in (["list"], ["show", "acme/topics", "--json"]):
        ours, theirs = os.pipe()
        os.close(ours)
        with os.fdopen(theirs, "wb") as closed:
            command = [sys.executable, "-m", "graftwork", *verb]
            done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("options", [[], ["--json"]], ids=str)
def test_an_output_that_takes_nothing_is_told(home: Path, options: list[str]) -> None:
    command = [sys.executable, "-m", "graftwork", "list", *options]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert "the output cannot be used: No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_letters_the_locale_does_not_know_are_spelled_out(home: Path, tmp_path: Path) -> None:
    rows = tmp_path / "größe.csv"
    done = spawn_graft(["data", "check", str(rows)], env=environment(PYTHONIOENCODING="ascii"))
    assert done.code == 2
    assert r"gr\xf6\xdfe.csv: there is no such file" in done.err


def test_ctrl_c_while_it_waits(tmp_path: Path) -> None:
    facts = tmp_path / "facts.yaml"
    os.mkfifo(facts)
    # A shell lets what it starts in the background ignore Ctrl-C, and so would the child.
    script = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from graftwork.cli import main; main()\n"
    )
    command = [sys.executable, "-c", script, "base", "add", "x", "--name", "x", "--metadata", str(facts)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with facts.open("w"):  # opened as soon as the child opens it to read
        child.send_signal(signal.SIGINT)
        out, err = child.communicate()
    assert (child.returncode, out, err) == (130, "", "interrupted; nothing was half done\n")


def test_shell_completion_offers_verbs_and_options() -> None:
    # Otherwise Typer looks for the shell among the parents of the process, which is not bash everywhere.
    told = environment(_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    shown = spawn_graft(["--show-completion", "bash"], env=told)
    assert shown.code == 0
    assert "_GRAFT_COMPLETE=complete_bash" in shown.out
    offered = {}
    for words in ("graft ev", "graft train --str"):
        asked = {"_GRAFT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        script = "import sys; sys.argv = ['graft']; from graftwork.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment(**asked)
        )
        offered[words] = done.stdout.split()
    assert offered == {"graft ev": ["evaluate"], "graft train --str": ["--strategy"]}


def test_serve_says_where_it_is_and_ends_on_sigterm(home: Path) -> None:
    command = [sys.executable, "-m", "graftwork", "serve", "--port", "0", "--json", "--no-log"]
    plain = environment(GRAFT_DTYPE="float32", GRAFT_COMPILE="0")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=plain) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline()]
        while lines[-1] not in ("}\n", ""):
            lines.append(child.stdout.readline())
        told = json.loads("".join(lines))
        with Client(told["url"]) as client:
            (answer,) = client.classify("acme/topics", ["quick brown fox jumps"]).results
        taken = spawn_graft(["serve", "--port", told["url"].rpartition(":")[2], "--preload", "none", "--json"])
        child.send_signal(signal.SIGTERM)
        assert child.wait() == 0
    assert told["example"] == "acme/topics"
    assert answer.label == "animal"
    assert (taken.code, taken.error["code"]) == (2, "port-in-use")
