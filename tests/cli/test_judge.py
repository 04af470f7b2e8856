from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.running import Graft

ANIMAL, LEGAL = "quick brown fox jumps", "court granted appeal case"


def test_predict_answers_text_by_text(graft: Graft, home: Path) -> None:
    answer = graft(["predict", "acme/topics", ANIMAL, LEGAL, "--json"]).json
    assert set(answer) == {"model", "digest", "results"}
    assert answer["model"] == "acme/topics@1"
    assert answer["digest"] == graft(["show", "acme/topics", "--json"]).json["digest"]
    assert [result["text"] for result in answer["results"]] == [ANIMAL, LEGAL]
    assert [result["labels"][0]["label"] for result in answer["results"]] == ["animal", "legal"]
    for result in answer["results"]:
        scores = [entry["score"] for entry in result["labels"]]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1, abs=1e-6)


def test_predict_draws_a_table(graft: Graft, home: Path) -> None:
    done = graft(["predict", "acme/topics@1", ANIMAL, "x" * 200, "--top-k", "1"])
    rows = [line.split() for line in done.out.splitlines()]
    assert rows[0] == ["acme/topics@1"]
    assert rows[2][:5] == [*ANIMAL.split(), "animal"]
    assert rows[3][0] == "x" * 59 + "…"


def test_predict_reads_one_text_a_line(graft: Graft, home: Path) -> None:
    stdin = b"\xef\xbb\xbf" + f"{ANIMAL}\r\n\n   \n{LEGAL}".encode()
    answer = graft(["predict", "acme/topics", "-", "--json", "--top-k", "1"], stdin=stdin).json
    assert [r["text"] for r in answer["results"]] == [ANIMAL, LEGAL]
    assert [len(r["labels"]) for r in answer["results"]] == [1, 1]


def test_predict_names_the_lines_that_are_no_text(graft: Graft, home: Path) -> None:
    done = graft(["predict", "acme/topics", "-", "--json"], stdin=b"good\nb\xffd\n\n\xe4\n")
    assert (done.code, done.error["code"]) == (2, "data-unreadable")
    assert done.error["problems"] == [
        {"where": "line 2", "what": "byte 2 is not valid UTF-8"},
        {"where": "line 4", "what": "byte 1 is not valid UTF-8"},
    ]


def test_predict_with_nothing_to_read(graft: Graft, home: Path) -> None:
    done = graft(["predict", "acme/topics", "-", "--json"], stdin=b"\n\n")
    assert (done.code, done.error["code"]) == (2, "request-invalid")


def test_texts_of_any_kind_are_answered(graft: Graft, home: Path) -> None:
    texts = ["", "\x00", "\N{GRINNING FACE}", "fox " * 100_000]
    answer = graft(["predict", "acme/topics", *texts, "--json"]).json
    assert [result["text"] for result in answer["results"]] == texts


def test_evaluate_judges_on_a_file(graft: Graft, home: Path, rows_file: Path) -> None:
    judged = graft(["evaluate", "acme/topics", "--data", str(rows_file), "--json"]).json
    assert set(judged) == {"model", "digest", "evaluation"}
    evaluation = judged["evaluation"]
    assert evaluation["rows"] == 60
    assert evaluation["classes"] == ["animal", "legal"]
    right = evaluation["confusion"][0][0] + evaluation["confusion"][1][1]
    assert evaluation["accuracy"]["value"] == pytest.approx(right / 60, abs=1e-6)
    assert evaluation["accuracy"]["value"] > 0.9
    told = graft(["evaluate", "acme/topics:latest", "--data", str(rows_file)]).told
    assert "Quality on 60 test rows" in told
    # The very file it was trained on; others are judged without a word.
    assert "warning: these are the rows that acme/topics@1 was trained on" in told
    assert "Confusion matrix" in told


def test_evaluate_by_a_column_judges_its_values_apart(
    graft: Graft, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "fresh.csv"
    rows = [(ANIMAL, "animal", "en"), (LEGAL, "legal", "en"), ("lazy dog over", "legal", "ja")]
    rows += [("日本語の本", "animal", "ja"), ("fox jumps dog", "animal", "")]
    file.write_text("\n".join(["text,label,lang", *map(",".join, rows)]), "utf-8")
    line = ["evaluate", "acme/topics", "--data", str(file), "--by", "lang"]
    judged = graft([*line, "--json"]).json
    assert judged["by"] == "lang"
    slices = {each["name"]: each for each in judged["slices"]}
    assert list(slices) == ["en", "ja", "(none)"]
    assert [each["rows"] for each in judged["slices"]] == [2, 2, 1]
    right = sum(each["rows"] * each["accuracy"]["value"] for each in judged["slices"])
    assert right == pytest.approx(5 * judged["evaluation"]["accuracy"]["value"])
    assert (slices["en"]["accuracy"]["value"], slices["en"]["unknown_tokens"]) == (1.0, 0.0)
    assert slices["ja"]["unknown_tokens"] == 5 / 8  # one token a character, none of which the model has
    assert "ja 2" in graft(line).told
    detected = graft([*line[:-1], "language", "--json"]).json["slices"]
    assert {each["name"] for each in detected} == {"en", "not sure (Latin)", "not sure (Japanese)"}
    missing = graft([*line[:-1], "region", "--json"])
    assert (missing.code, missing.error["code"]) == (2, "columns-missing")
    monkeypatch.setattr("graftwork.data.languages.detect_languages", lambda _texts: None)
    without = graft([*line[:-1], "language", "--json"])
    assert (without.code, without.error["code"]) == (2, "dependency-missing")


def test_evaluate_on_other_rows_warns_of_nothing(graft: Graft, home: Path, rows_file: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh.csv"
    fresh.write_text("".join(rows_file.read_text().splitlines(keepends=True)[:31]))
    done = graft(["evaluate", "acme/topics", "--data", str(fresh)])
    assert (done.code, done.err) == (0, "")


def test_evaluate_refuses_labels_it_does_not_know(graft: Graft, home: Path, tmp_path: Path) -> None:
    strange = tmp_path / "strange.csv"
    strange.write_text("text,label\nquick fox,animal\ncourt case,law\nappeal case,law\nbroken parcel,post\n")
    done = graft(["evaluate", "acme/topics", "--data", str(strange), "--json"])
    assert (done.code, done.error["code"]) == (2, "data-rejected")
    assert done.error["problems"] == [
        {"where": f"{strange}, row 3", "what": "unknown label 'law'"},
        {"where": f"{strange}, row 5", "what": "unknown label 'post'"},
    ]
    assert done.error["remedy"] == "Its labels are animal, legal."


def test_report_shows_how_it_was_judged(graft: Graft, home: Path) -> None:
    report = graft(["report", "acme/topics", "--json"]).json
    assert set(report) == {"model", "digest", "evaluation", "warnings", "decision"}
    assert report["evaluation"]["rows"] == 12
    assert report["evaluation"] == graft(["show", "acme/topics", "--json"]).json["manifest"]["metrics"]
    told = graft(["report", "acme/topics"]).told
    for words in ("Quality on 12 test rows", "By class", "Confusion matrix", "bootstrap"):
        assert words in told


def test_report_of_what_was_not_judged(graft: Graft, home: Path, rows_file: Path) -> None:
    line = ["train", str(rows_file), "--base", "tiny", "--name", "acme/all", "--strategy", "feature-extraction"]
    assert graft([*line, "--set", "test_share=0"]).code == 0
    assert "acme/all@1 was not judged" in graft(["report", "acme/all"]).told
    assert graft(["report", "acme/all", "--json"]).json["evaluation"] is None


def test_predict_refuses_a_text_of_ten_megabytes_by_its_place(graft: Graft, home: Path) -> None:
    stdin = f"{ANIMAL}\n{'x' * 10_000_000}\n".encode()
    done = graft(["predict", "acme/topics", "-"], stdin=stdin)
    assert (done.code, done.out) == (2, "")
    assert "a text may have at most 1,000,000 characters" in done.err
    assert "text 2: has 10,000,000 characters" in done.err
