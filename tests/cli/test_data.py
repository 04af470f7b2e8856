from __future__ import annotations

import json
from pathlib import Path

from tests.cli.running import Graft


def test_sound_rows(graft: Graft, home: Path, rows_file: Path) -> None:
    done = graft(["data", "check", str(rows_file), "--base", "tiny"])
    assert done.code == 0
    assert "60 of 60 rows can be used. 0.00% of the tokens are [UNK]" in done.told
    assert [line.split() for line in done.out.splitlines()[2:4]] == [
        ["animal", "30", "0.00%"],
        ["legal", "30", "0.00%"],
    ]


def test_json_is_the_whole_report(graft: Graft, home: Path, rows_file: Path) -> None:
    report = graft(["data", "check", str(rows_file), "--base", "tiny", "--max-length", "4", "--json"]).json
    assert report["rows"] == report["usable"] == 60
    assert report["classes"] == {"animal": 30, "legal": 30}
    assert report["unknown_share"] == 0
    assert report["truncated_share"] == 1
    assert graft(["data", "check", str(rows_file), "--json"]).json["unknown_share"] is None


def test_an_emoji_the_tokenizer_does_not_know_is_told(graft: Graft, home: Path, tmp_path: Path) -> None:
    rows = tmp_path / "mood.csv"
    lines = [f"fox number {i} \N{GRINNING FACE},good\ndog number {i} \N{CRYING FACE},bad" for i in range(20)]
    rows.write_text("text,label\n" + "\n".join(lines) + "\n")
    report = graft(["data", "check", str(rows), "--base", "tiny", "--json"]).json
    assert report["unknown_share"] > 0.05
    codes = {finding["code"]: finding for finding in report["findings"]}
    assert "\N{GRINNING FACE}" in json.dumps(codes["unknown-tokens"], ensure_ascii=False)


def test_rows_that_stand_in_both_files_are_told(graft: Graft, home: Path, rows_file: Path) -> None:
    done = graft(["data", "check", str(rows_file), "--test", str(rows_file), "--json"])
    assert done.code == 2
    report = json.loads(done.out)
    assert [f["code"] for f in report["findings"] if f["severity"] == "error"] != []


def test_rows_that_training_would_refuse_exit_with_2(graft: Graft, tmp_path: Path) -> None:
    rows = tmp_path / "one.csv"
    rows.write_text("text,label\na fox,animal\na dog,animal\n")
    done = graft(["data", "check", str(rows)])
    assert done.code == 2
    assert "error: all 2 rows have one label, 'animal'" in done.err
    assert "Give rows of two classes or more." in done.err
