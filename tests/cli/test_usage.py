"""Mistakes on the command line itself."""

from __future__ import annotations

import pytest
import typer

from graftwork.cli import session
from graftwork.registry.catalog import Catalog
from tests.cli.running import Graft

MISTAKES = {
    "no such verb": (["nonsense"], "no such command 'nonsense'", "graft --help"),
    "a near verb": (["trian"], "no such command 'trian'. Did you mean 'train'?", "graft --help"),
    "no file": (["train"], "missing argument 'FILE'", "graft train --help"),
    "no base": (["train", "rows.csv"], "missing options '--name' and '--base' (or '--parent')", "graft train --help"),
    "no such option": (["base", "add", "x", "--nam", "y"], "no such option: --nam", "graft base add --help"),
    "one word too many": (["show", "acme/a", "b"], "got unexpected extra argument(s) (b)", "graft show --help"),
    "no number": (
        ["alias", "acme/a", "b", "--expected", "one"],
        "invalid value for '--expected': Input should be a valid integer",
        "graft alias --help",
    ),
    "no such choice": (
        ["base", "list", "--domain", "law"],
        "invalid value for '--domain': Value error, 'law' is not one of 'nlp', 'vision', 'speech', 'multimodal'",
        "graft base list --help",
    ),
    "out of range": (["predict", "acme/a", "b", "--top-k", "0"], "invalid value for '--top-k'", "graft predict --help"),
}


@pytest.mark.parametrize(("line", "message", "remedy"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_told_like_any_other_error(graft: Graft, line: list[str], message: str, remedy: str) -> None:
    told = graft(line)
    assert (told.code, told.out) == (2, "")
    assert told.err.startswith(f"error: {message}")
    assert f"{remedy} tells what there is." in told.err
    as_json = graft([*line, "--json"])
    assert as_json.code == 2
    assert as_json.error["message"].startswith(message)
    assert as_json.error["code"] == "settings-invalid"


def test_an_option_without_its_value(graft: Graft) -> None:
    done = graft(["train", "rows.csv", "--json", "--base"])
    assert (done.code, done.error["message"]) == (2, "option '--base' requires an argument")


@pytest.mark.parametrize("line", [[], ["base"], ["data"]], ids=str)
def test_without_a_verb_the_help_is_printed(graft: Graft, line: list[str]) -> None:
    done = graft(line)
    assert (done.code, done.err) == (2, "")
    assert f"Usage: {' '.join(['graft', *line])} [OPTIONS] COMMAND" in done.out


def test_the_version(graft: Graft) -> None:
    from graftwork import __version__

    assert graft(["--version"]).out == f"graft {__version__}\n"


def test_bytes_that_are_no_text_are_refused_before_anything_happens(graft: Graft) -> None:
    done = graft(["predict", "acme/a", "fine", "b\udcffd", "--json"])
    assert (done.code, done.error["code"]) == (2, "settings-invalid")
    assert done.error["problems"] == [{"where": r"argument 4 ('b\udcffd')", "what": "is not valid UTF-8"}]


def test_settings_of_the_environment_are_checked(graft: Graft, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_DTYPE", "float7")
    done = graft(["list", "--json"])
    assert (done.code, done.error["code"]) == (2, "settings-invalid")
    assert done.error["problems"][0]["where"] == "GRAFT_DTYPE"


@pytest.mark.parametrize("raised", [KeyboardInterrupt, typer.Abort])
def test_ctrl_c_gives_130(graft: Graft, monkeypatch: pytest.MonkeyPatch, raised: type[BaseException]) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(Catalog, "list", interrupted)
    done = graft(["list"])
    assert (done.code, done.out, done.err) == (130, "", "interrupted; nothing was half done\n")


def test_what_nobody_foresaw_is_told_in_one_line(graft: Graft, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr(Catalog, "list", broken)
    done = graft(["list", "--json"])
    assert (done.code, done.error["code"]) == (1, "internal")
    assert done.error["message"] == "this should not have happened: ZeroDivisionError: first line"
    assert "GRAFT_DEBUG=1" in done.error["remedy"]


def test_debugging_prints_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> None:
        raise ZeroDivisionError("so it is")

    monkeypatch.setenv("GRAFT_DEBUG", "1")
    assert session.run(broken) == 1
    assert "in broken" in capsys.readouterr().err


def test_every_bad_bound_of_a_server_is_told_at_once(graft: Graft) -> None:
    line = [
        "serve",
        "--slots",
        "0",
        "--host-mb",
        "-1",
        "--idle-hours",
        "nan",
        "--cache-mb",
        "-2",
        "--tenant-metrics",
        "-1",
        "--lookup-grace-seconds",
        "-5",
        "--weight",
        "acme=0",
    ]
    told = graft([*line, "--json"])
    assert (told.code, told.error["code"]) == (2, "settings-invalid")
    assert [(problem["where"], problem["what"]) for problem in told.error["problems"]] == [
        ("--slots", "is 0; it must be at least 1"),
        ("--host-mb", "is -1; it must be more than 0"),
        ("--idle-hours", "is nan; it must be more than 0"),
        ("--lookup-grace-seconds", "is -5; it must be 0 or more"),
        ("--cache-mb", "is -2; it must be 0 or more"),
        ("--tenant-metrics", "is -1; it must be 0 or more"),
        ("--weight acme=0", "'0' is not a number above 0"),
    ]
