from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.cli.running import Graft
from tests.cli.samples import draw_rows, write_rows


@pytest.fixture
def rival(graft: Graft, home: Path, tmp_path: Path) -> str:
    """A second version, trained on a few rows with a third of their labels turned round."""
    rows = draw_rows(8, seed=5)
    with (tmp_path / "turned.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        for number, (text, label) in enumerate(rows):
            turned = {"animal": "legal", "legal": "animal"}[label]
            writer.writerow((text, turned if number % 3 == 0 else label))
    line = ["train", str(tmp_path / "turned.csv"), "--base", "tiny", "--name", "acme/topics"]
    assert graft([*line, "--strategy", "feature-extraction", "--set", "test_share=0"]).code == 0
    return "acme/topics@2"


def test_compare_agrees_with_evaluate_and_counts_who_is_right(
    graft: Graft, home: Path, rival: str, tmp_path: Path
) -> None:
    fresh = write_rows(tmp_path / "fresh.csv", count=40, seed=9)
    found = graft(["compare", "acme/topics@1", rival, "--data", str(fresh), "--json"]).json
    assert [model["model"] for model in found["models"]] == ["acme/topics@1", rival]
    for model in found["models"]:
        judged = graft(["evaluate", model["model"], "--data", str(fresh), "--json"]).json["evaluation"]
        assert model["evaluation"]["accuracy"] == judged["accuracy"]
        assert model["evaluation"]["confusion"] == judged["confusion"]
        shown = graft(["show", model["model"], "--json"]).json
        assert (model["size_bytes"], model["digest"]) == (shown["size_bytes"], shown["digest"])
    (challenge,) = found["challenges"]
    answers = {
        name: [
            result["labels"][0]["label"]
            for result in graft(["predict", name, "--json", "-"], stdin=_lines(fresh)).json["results"]
        ]
        for name in ("acme/topics@1", rival)
    }
    truth = [row["label"] for row in _rows(fresh)]
    mine, theirs = ([a == b for a, b in zip(answers[n], truth, strict=True)] for n in (rival, "acme/topics@1"))
    assert challenge["accuracy"]["only_a"] == sum(a and not b for a, b in zip(mine, theirs, strict=True))
    assert challenge["accuracy"]["only_b"] == sum(b and not a for a, b in zip(mine, theirs, strict=True))
    assert challenge["verdict"] == "worse"
    expected = {  # the header is row 1
        (row + 2, text["text"], text["label"], answers["acme/topics@1"][row], answers[rival][row])
        for row, text in enumerate(_rows(fresh))
        if answers["acme/topics@1"][row] != answers[rival][row]
    }
    assert {(d["row"], d["text"], d["truth"], *d["answers"]) for d in found["disagreements"]} == expected


def test_compare_prints_cost_verdict_and_the_rows_in_dispute(
    graft: Graft, home: Path, rival: str, tmp_path: Path
) -> None:
    fresh = write_rows(tmp_path / "fresh.csv", count=40, seed=9)
    told = graft(["compare", "acme/topics@1", rival, "--data", str(fresh), "--show", "1"]).told
    assert "Quality on 80 rows, and cost" in told
    assert "Against acme/topics@1 on the same 80 rows" in told
    assert "worse" in told
    assert "They differ on" in told


def test_rows_seen_in_training_are_told(graft: Graft, home: Path, rival: str, rows_file: Path) -> None:
    told = graft(["compare", "acme/topics@1", rival, "--data", str(rows_file)]).told
    assert "these are the rows that acme/topics@1 was trained on" in told
    assert f"these are the rows that {rival} was trained on" not in told


@pytest.mark.parametrize("names", [["acme/topics"], ["acme/topics@1", "acme/topics:latest"]])
def test_one_adapter_alone_cannot_be_compared(graft: Graft, home: Path, rows_file: Path, names: list[str]) -> None:
    done = graft(["compare", *names, "--data", str(rows_file), "--json"])
    assert (done.code, done.error["code"]) == (2, "settings-invalid")
    assert "two or more different adapters" in done.error["remedy"]


def test_adapters_of_other_labels_are_refused_label_by_label(graft: Graft, home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text(write_rows(other).read_text().replace(",legal", ",law"))
    line = ["train", str(other), "--base", "tiny", "--name", "acme/other", "--strategy", "feature-extraction"]
    assert graft(line).code == 0
    done = graft(["compare", "acme/topics", "acme/other", "--data", str(other), "--json"])
    assert (done.code, done.error["code"]) == (2, "data-rejected")
    assert done.error["problems"] == [
        {"where": "acme/other@1", "what": "does not know 'legal'"},
        {"where": "acme/topics@1", "what": "does not know 'law' of acme/other@1"},
    ]


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def _lines(file: Path) -> bytes:
    return "\n".join(row["text"] for row in _rows(file)).encode()
