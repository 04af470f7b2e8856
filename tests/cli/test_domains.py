from __future__ import annotations

from pathlib import Path

from tests.cli.running import Graft
from tests.cli.samples import draw_rows


def write_target(folder: Path) -> Path:
    path = folder / "target.txt"
    path.write_text("\n".join(f"wonderful weather today, {text}" for text, _ in draw_rows(20, seed=5)))
    return path


def test_rows_without_labels_go_from_the_command_line_to_an_answer(
    graft: Graft, home: Path, rows_file: Path, tmp_path: Path
) -> None:
    line = ["train", str(rows_file), "--base", "tiny", "--name", "acme/there", "--strategy", "feature-extraction"]
    published = graft([*line, "--adapt-to", str(write_target(tmp_path)), "--json"]).json
    record = published["manifest"]["adaptation"]
    assert (record["asked"], record["rows"]) == ("auto", 40)
    assert [one["method"] for one in record["considered"]] == ["none", "self-training"]
    answered = graft(["predict", "acme/there", "the quick brown fox", "--json"]).json
    assert answered["results"][0]["labels"][0]["label"] in published["labels"]


def test_the_shift_is_told_by_itself(graft: Graft, home: Path, rows_file: Path, tmp_path: Path) -> None:
    line = ["data", "shift", str(rows_file), "--against", str(write_target(tmp_path)), "--base", "tiny"]
    report = graft([*line, "--json"]).json
    assert report["domain_auc"]["low"] > 0.8
    assert report["features"]["p_value"] < 0.05
    assert "AUC" in graft(line).out


def test_options_that_contradict_each_other_are_refused(graft: Graft, home: Path, rows_file: Path) -> None:
    line = ["train", str(rows_file), "--base", "tiny", "--name", "acme/there", "--json"]
    assert "has no rows to adapt to" in graft([*line, "--adaptation", "adversarial"]).error["message"]
    beside = [*line, "--adapt-to", str(rows_file), "--dry-run"]
    assert graft(beside).error["message"] == "--adapt-to cannot be given with --dry-run"
    same = graft([*line, "--adapt-to", str(rows_file)]).error
    assert "also stand in the labelled file" in same["message"]
