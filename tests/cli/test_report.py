"""`graft report` as a page, as Markdown and as JSON."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import Graft
from tests.cli.samples import draw_rows

MARKUP = "<script>alert('court')</script> granted | appeal"


def section(report: dict[str, Any], key: str) -> dict[str, Any]:
    (found,) = [one for one in report["sections"] if one["key"] == key]
    return dict(found)


def said(report: dict[str, Any], key: str) -> str:
    return " ".join(section(report, key)["text"])


def write(path: Path, rows: list[tuple[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


@pytest.fixture
def fresh(tmp_path: Path, rows_file: Path) -> Path:
    """Rows of which two are markup, under either label, and two were trained on."""
    with rows_file.open(newline="", encoding="utf-8") as file:
        known = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    seen = {text for text, _ in known}
    unseen = [row for row in draw_rows(25, seed=7) if row[0] not in seen]
    return write(tmp_path / "fresh.csv", [*unseen, (MARKUP, "animal"), (f"{MARKUP} case", "legal"), *known[:2]])


def test_the_held_out_rows_are_judged_as_they_were_in_training(graft: Graft, home: Path) -> None:
    report = graft(["report", "acme/topics", "--format", "json"]).json
    kept = graft(["report", "acme/topics", "--json"]).json["evaluation"]
    assert [one["key"] for one in report["sections"]] == [
        "figures", "transfer", "confusion", "calibration", "classes", "slices", "mistakes", "data", "labels", "lineage",
        "cost", "reproduce",
    ]  # fmt: skip
    accuracy = section(report, "figures")["figures"][0]
    assert accuracy["value"] == f"{kept['accuracy']['value']:.1%}"
    matrix = section(report, "confusion")["tables"][0]["rows"]
    assert [[int(cell.replace("·", "0")) for cell in row[1:]] for row in matrix] == kept["confusion"]
    assert "measures it" in said(report, "transfer")
    assert (home / "evidence").is_dir()


def test_a_report_on_kept_answers_asks_no_model(graft: Graft, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = graft(["report", "acme/topics", "--format", "json"]).json
    monkeypatch.setattr("graftwork.wiring.Services.backbone", lambda *_: pytest.fail("the model was loaded"))
    assert graft(["report", "acme/topics", "--format", "json"]).json == first


def test_damaged_evidence_is_made_again(graft: Graft, home: Path) -> None:
    first = graft(["report", "acme/topics", "--format", "json"]).json
    (kept,) = (home / "evidence").glob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:-9])
    assert graft(["report", "acme/topics", "--format", "json"]).json == first


def test_other_rows_are_judged_without_those_it_was_trained_on(
    graft: Graft, home: Path, fresh: Path, rows_file: Path, tmp_path: Path
) -> None:
    line = ["report", "acme/topics", "--data", str(fresh)]
    report = graft([*line, "--json"]).json
    assert "rows were left out: it was trained on their texts" in said(report, "figures")
    mistakes = section(report, "mistakes")["tables"][0]["rows"]
    (mistake, *_) = [row for row in mistakes if row[0].startswith(MARKUP)]
    label, _, nearest = mistake[5].splitlines()[0].split(" · ")
    assert f"{nearest.partition(': ')[2]},{label}" in rows_file.read_text("utf-8").splitlines()
    assert section(report, "labels")["title"] == "Labels that look wrong"
    refused = graft([*line, "--json", "--refuse-seen"])
    assert (refused.code, refused.error["code"]) == (2, "data-rejected")
    assert "was trained on the texts of" in refused.error["message"]
    assert str(fresh) in refused.error["problems"][0]["where"]
    told = graft([*line, "--out", str(tmp_path / "report.md")])
    assert told.code == 0
    assert report["verdict"]["headline"] in told.out
    page = (tmp_path / "report.md").read_text("utf-8")
    assert "\\<script\\>alert('court')\\</script\\> granted \\| appeal" in page
    assert "<script" not in page.replace("\\<script", "")
    assert page.count("\n## ") == len(report["sections"])


def test_transfer_that_was_measured_is_in_the_next_report(
    graft: Graft, home: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graftwork.training.references._MOST_EPOCHS", 2)
    monkeypatch.setattr("graftwork.training.references.RATES", (1e-3,))
    found = graft(["evaluate", "acme/topics", "--transfer", str(rows_file), "--draws", "0", "--json"]).json["transfer"]
    monkeypatch.setattr("graftwork.wiring.Services.backbone", lambda *_: pytest.fail("the model was loaded"))
    report = graft(["report", "acme/topics", "--format", "json"]).json
    rows = section(report, "transfer")["tables"][0]["rows"]
    assert [row[0] for row in rows[1:]] == [one["name"] for one in found["against"]]
    assert any("training from scratch" in claim["against"] for claim in report["verdict"]["claims"])


def test_without_the_training_rows_it_says_so(graft: Graft, home: Path, fresh: Path, rows_file: Path) -> None:
    moved = rows_file.rename(rows_file.with_name("moved.csv"))
    try:
        report = graft(["report", "acme/topics", "--format", "json"]).json
        assert "is not there any more" in said(report, "figures")
        assert "not at hand" in said(report, "labels")
        assert report["verdict"]["claims"][0]["difference"] is None
        report = graft(["report", "acme/topics", "--data", str(fresh), "--json"]).json
        assert "could not be checked" in said(report, "figures")
        assert "nearest ones cannot be shown" in said(report, "mistakes")
        again = graft(["report", "acme/topics", "--train", str(moved), "--json"]).json
        assert "figures" in {one["key"] for one in again["sections"]}
        assert f"--train {moved}" in section(again, "reproduce")["commands"][-1]
    finally:
        moved.rename(rows_file)


def test_the_commands_make_the_same_adapter_again(
    graft: Graft, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, train, _ = section(graft(["report", "acme/topics", "--format", "json"]).json, "reproduce")["commands"]
    monkeypatch.chdir(tmp_path)
    Path("settings.yaml").write_text(settings.splitlines()[1], "utf-8")
    assert graft(train.split()[1:]).code == 0
    digests = [graft(["show", f"acme/topics@{number}", "--json"]).json["digest"] for number in (1, 2)]
    assert digests[0] == digests[1]


def test_rows_that_it_was_judged_on_are_found_again(graft: Graft, home: Path, fresh: Path, rows_file: Path) -> None:
    line = ["train", str(rows_file), "--base", "tiny", "--name", "acme/given", "--strategy", "feature-extraction"]
    made = graft([*line, "--test", str(fresh), "--json"]).json
    report = graft(["report", "acme/given", "--format", "json"]).json
    accuracy = section(report, "figures")["figures"][0]
    assert accuracy["value"] == f"{made['manifest']['metrics']['accuracy']['value']:.1%}"
    assert section(report, "mistakes")["tables"]
    assert f"--test {fresh}" in section(report, "reproduce")["commands"][1]
    told = graft(["evaluate", "acme/given", "--data", str(fresh)]).told
    assert f"graft report acme/given@1 --data {fresh} --out report.html" in " ".join(told.split())
    fresh.write_text(fresh.read_text("utf-8") + "one more fox,animal\n", "utf-8")
    assert "no rows were held out" in said(graft(["report", "acme/given", "--format", "json"]).json, "figures").lower()


def test_mistakes_are_told(graft: Graft, home: Path, fresh: Path, tmp_path: Path) -> None:
    def error(*line: str) -> dict[str, Any]:
        done = graft(["report", "acme/topics", *line, "--json"])
        assert done.code == 2
        return done.error

    ending = graft(["report", "acme/topics", "--out", str(tmp_path / "report.pdf")])
    assert (ending.code, list(tmp_path.glob("*.pdf"))) == (2, [])
    assert "the ending does not say what to write" in ending.err
    assert "contradict" in error("--format", "html")["message"]
    assert "does not hold the rows" in error("--train", str(fresh))["message"]
    assert "no such file" in error("--train", str(tmp_path / "none.csv"))["message"]
    strange = write(tmp_path / "strange.csv", [("quick fox", "animal"), ("broken parcel", "post")])
    unknown = error("--data", str(strange))
    assert unknown["problems"] == [{"where": f"{strange}, row 3", "what": "unknown label 'post'"}]
    below_a_file = graft(["report", "acme/topics", "--out", str(strange / "report.html")])
    assert (below_a_file.code, below_a_file.err.count("not a folder")) == (2, 1)


def test_the_page_is_the_same_every_time(graft: Graft, home: Path, tmp_path: Path) -> None:
    pages = [tmp_path / "a.html", tmp_path / "b.html"]
    for page in pages:
        assert graft(["report", "acme/topics", "--out", str(page)]).code == 0
    assert pages[0].read_bytes() == pages[1].read_bytes()
    assert json.dumps(str(tmp_path)) not in pages[0].read_text("utf-8")
