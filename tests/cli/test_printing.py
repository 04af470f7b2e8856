"""What a text may not do to the terminal it is printed on."""

from __future__ import annotations

import io
import json
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.cli import console
from graftwork.data.findings import Finding
from graftwork.data.printable import printable
from graftwork.errors import DataRejected, Problem
from tests.cli.running import Graft

NASTY = "[red]x[/red] \x1b[2J\x9b31m\x07\u202egnp.exe\r"
SHOWN = r"[red]x[/red] \x1b[2J\x9b31m\x07\u202egnp.exe\r"


def unprintable(text: str) -> list[str]:
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]


@given(st.text(st.characters(codec=None)))
def test_no_control_character_is_ever_printed(text: str) -> None:
    assert unprintable(printable(text)) == []
    assert not {"\n", "\t"} & set(printable(text, one_line=True))


@given(st.text(st.characters(exclude_categories=("Cc", "Cs", "Cf"))))
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert printable(text, one_line=True) == text


@given(st.text(st.characters(codec=None)))
def test_json_reads_back_as_it_was_and_is_printable(text: str) -> None:
    stream = io.StringIO()
    written = console._as_json([text, {text: 1}], stream=stream)
    assert json.loads(written) == [text, {text: 1}]
    assert unprintable(written) == []
    written.encode("utf-8")


def test_every_way_to_print_is_safe(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("said ", (NASTY, "bold"), NASTY)
    console.print_table(NASTY, ("a", NASTY), [(NASTY, f"two\n{NASTY}")], note=NASTY)
    console.print_findings([Finding(code="c", severity="warning", message=NASTY, count=1, examples=(NASTY,))])
    console.print_error(DataRejected(NASTY, problems=[Problem(NASTY, NASTY)], remedy=NASTY), as_json=False)
    out, err = capsys.readouterr()
    assert unprintable(out + err) == []
    assert f"said {SHOWN}{SHOWN}\n" in out
    assert rf"two\n{SHOWN}" in out
    assert f"  - {SHOWN}: {SHOWN}\n{SHOWN}\n" in err


def test_labels_and_texts_are_printed_literally(graft: Graft, home: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    kinds = (("[bold]b", "court"), (NASTY.strip(), "fox"))
    lines = [{"label": kinds[i % 2][0], "text": f"{kinds[i % 2][1]} {'dog ' * (i % 9)}{i}"} for i in range(60)]
    rows.write_text("\n".join(map(json.dumps, lines)))
    line = ["train", str(rows), "--base", "tiny", "--name", "acme/nasty", "--strategy", "feature-extraction"]
    shown = SHOWN.removesuffix(r"\r")
    for verb in (line, ["show", "acme/nasty"], ["report", "acme/nasty"], ["predict", "acme/nasty", "\x1b[2J fox"],
                 ["data", "check", str(rows)], ["list", "--search", NASTY]):  # fmt: skip
        done = graft(verb)
        assert done.code == 0
        assert unprintable(done.out + done.err) == []
        if verb[0] in ("show", "report", "predict", "data"):
            assert shown in done.told
            assert "[bold]b" in done.told
    answer = graft(["predict", "acme/nasty", NASTY, "--json"])
    assert unprintable(answer.out) == []
    assert answer.json["results"][0]["text"] == NASTY


def test_json_for_a_locale_of_few_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    console.print_json({"label": "größe"})
    sys.stdout.flush()
    assert json.loads(raw.getvalue()) == {"label": "größe"}


def test_colours_only_on_terminals(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    console.say(("bold", "bold"))
    assert capsys.readouterr().out == "bold\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    console.say(("bold", "bold"))
    assert capsys.readouterr().out == "\x1b[1mbold\x1b[0m\n"
