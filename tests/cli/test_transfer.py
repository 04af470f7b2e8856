"""`graft evaluate --transfer`, from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.running import Graft
from tests.cli.samples import write_rows


def test_transfer_is_measured_on_the_rows_it_was_trained_on(
    graft: Graft, home: Path, rows_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graftwork.training.references._MOST_EPOCHS", 5)
    line = ["evaluate", "acme/topics", "--transfer", str(rows_file), "--draws", "0"]
    found = graft([*line, "--json"]).json
    report = found["transfer"]
    shown = graft(["report", "acme/topics", "--json"]).json["evaluation"]
    assert (found["model"], found["seen"], report["curves"]) == ("acme/topics@1", 0, [])
    assert report["test_rows"] == shown["rows"]
    assert report["accuracy"]["value"] == shown["accuracy"]["value"]
    kept = sorted((home / "references").iterdir())
    assert len(kept) == len(report["against"]) + 3  # three rates are tried
    said = graft(line)
    assert sorted((home / "references").iterdir()) == kept
    assert "What transfer was worth: 48 rows to train on, 12 to judge on" in said.out
    for one in report["against"]:
        assert one["name"] in said.out
        assert one["verdict"] in said.out
    assert "against the best training from scratch" in said.out


def test_training_measures_it_at_once(
    graft: Graft, home: Path, rows_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graftwork.training.references._MOST_EPOCHS", 1)
    monkeypatch.setattr("graftwork.training.references.RATES", (1e-3,))
    monkeypatch.setattr("graftwork.cli.transfer.DRAWS", 0)
    line = ["train", str(rows_file), "--base", "tiny", "--name", "acme/measured", "--strategy", "feature-extraction"]
    made = graft([*line, "--transfer", "--json"]).json
    later = graft(["evaluate", "acme/measured", "--transfer", str(rows_file), "--draws", "0", "--json"]).json
    assert (made["reference"], made["transfer"]) == ("acme/measured@1", later["transfer"])
    assert [one["name"] for one in made["transfer"]["against"]] == ["scratch", "scratch until it stops"]
    refused = graft([*line, "--transfer", "--dry-run", "--json"])
    assert (refused.code, refused.error["message"]) == (2, "--transfer cannot be given with --dry-run")


def test_mistakes_are_told(graft: Graft, home: Path, tmp_path: Path) -> None:
    other = write_rows(tmp_path / "other.csv", seed=3)
    refused = graft(["evaluate", "acme/topics", "--transfer", str(other), "--json"])
    assert refused.code == 2
    assert "does not hold the rows that the adapter was trained on" in refused.error["message"]
    nothing = graft(["evaluate", "acme/topics", "--json"])
    assert nothing.code == 2
    assert "--data FILE" in nothing.error["remedy"]
