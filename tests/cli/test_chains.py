"""Global -> region -> user from the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.cli.running import Graft
from tests.cli.samples import draw_rows

SWAPPED = {"animal": "legal", "legal": "animal"}


@pytest.fixture
def region_rows(tmp_path: Path) -> Path:
    """Rows of a region that means the opposite by every label."""
    return write(tmp_path / "region.csv", 30, seed=5)


def write(path: Path, count: int, seed: int) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [("text", "label"), *((text, SWAPPED[label]) for text, label in draw_rows(count, seed))]
        )
    return path


def child_of(file: Path, parent: str, name: str, *options: str) -> list[str]:
    return ["train", str(file), "--parent", parent, "--name", name, *options]


def test_a_chain_is_trained_asked_shown_moved_and_removed(graft: Graft, home: Path, region_rows: Path) -> None:
    small = ("--strategy", "lora", "--set", "lora.rank=2", "--set", "fine_tuning.epochs=1")
    region = graft(child_of(region_rows, "acme/topics", "acme/topics~eu", *small, "--json")).json
    assert region["base"] == "tiny/1/base"
    top = graft(["show", "acme/topics", "--json"]).json
    assert region["parent"] == top["digest"]
    head_only = ("--strategy", "feature-extraction", "--json")
    user = graft(child_of(region_rows, "acme/topics~eu", "acme/topics~eu~user1", *head_only)).json
    assert (user["parent"], user["size_bytes"] < region["size_bytes"]) == (region["digest"], True)
    assert "2 of 2 labels agree" in user["manifest"]["decision"]

    shown = graft(["lineage", "acme/topics"]).out
    assert shown.index("acme/topics@1") < shown.index("acme/topics~eu@1") < shown.index("acme/topics~eu~user1@1")
    stands_on = "tiny/1/base -> acme/topics@1 -> acme/topics~eu@1"
    assert stands_on in " ".join(graft(["show", "acme/topics~eu~user1"]).out.split())

    before = graft(["predict", "acme/topics~eu~user1", "quick brown fox", "--json"]).json
    assert before["model"] == "acme/topics~eu~user1@1"
    assert "fallback_for" not in before
    # A newer parent under the old name changes nothing for the child, which knows its parent by digest.
    assert graft(["train", str(region_rows), "--base", "tiny", "--name", "acme/topics~eu", *head_only]).code == 0
    assert graft(["predict", "acme/topics~eu~user1", "quick brown fox", "--json"]).json == before

    fallen = graft(["predict", "acme/topics~eu~user2", "quick brown fox", "--json"]).json
    assert (fallen["model"], fallen["fallback_for"]) == ("acme/topics~eu@2", "acme/topics~eu~user2")
    told = graft(["predict", "acme/topics~eu~user2", "quick brown fox"]).out
    assert "acme/topics~eu~user2 has no adapter yet: acme/topics~eu@2 answers for it." in told

    refused = graft(["rm", "acme/topics~eu@1"])
    assert (refused.code, "acme/topics~eu~user1@1" in refused.err) == (2, True)
    assert graft(["gc", "--grace-hours", "0"]).code == 0
    assert graft(["predict", "acme/topics~eu~user1", "quick brown fox", "--json"]).json == before
    assert graft(["fsck"]).code == 0


def test_the_export_of_a_child_says_what_it_holds(graft: Graft, home: Path, region_rows: Path, tmp_path: Path) -> None:
    assert graft(child_of(region_rows, "acme/topics", "acme/topics~eu", "--strategy", "feature-extraction")).code == 0
    told = graft(["export", "acme/topics~eu", "--out", str(tmp_path / "delta")])
    assert "only what it adds to its parent" in told.out
    done = graft(["export", "acme/topics~eu", "--out", str(tmp_path / "whole"), "--format", "transformers"])
    assert (done.code, "only what it adds" in done.out) == (0, False)


def test_what_cannot_be_a_child_is_refused_before_anything_is_trained(
    graft: Graft, home: Path, region_rows: Path, rows_file: Path, tmp_path: Path
) -> None:
    neither = graft(["train", str(region_rows), "--name", "acme/x"])
    assert (neither.code, "--base" in neither.err, "--parent" in neither.err) == (2, True, True)
    other = graft(child_of(region_rows, "acme/topics", "acme/x", "--base", "minilm"))
    assert other.code == 2
    full = graft(child_of(region_rows, "acme/topics", "acme/x", "--strategy", "full"))
    assert (full.code, "cannot be part of a chain" in full.err) == (2, True)
    # The very rows that the parent was trained on: a child of a few of them cannot answer them better.
    few = tmp_path / "few.csv"
    with rows_file.open(encoding="utf-8") as file:
        lines = file.read().splitlines()
    few.write_text("\n".join([lines[0], *lines[1:4], *lines[31:34]]) + "\n")
    options = ("--strategy", "feature-extraction", "--set", "feature_extraction.head=mlp", "--set", "test_share=0")
    refused = graft(child_of(few, "acme/topics", "acme/x", *options))
    assert refused.code == 2
    assert "nothing was published" in refused.err or "validation" in refused.err
    assert json.loads(graft(["list", "--json"]).out)[-1]["reference"] == "acme/topics@1"


def test_going_on_with_an_adapter_and_back_again(graft: Graft, home: Path, region_rows: Path, rows_file: Path) -> None:
    ask = ["predict", "acme/topics", "quick brown fox", "--json"]
    first = graft(ask).json
    done = graft(["train", str(region_rows), "--continue", "acme/topics"])
    assert done.code == 0, done.err
    assert "Published acme/topics@2" in done.out
    assert "Chosen: continued from" in done.out
    assert "graft rm acme/topics@2" in done.out
    second = graft(ask).json
    assert (second["model"], second["digest"] != first["digest"]) == ("acme/topics@2", True)
    assert graft(["show", "acme/topics", "--json"]).json["manifest"]["continues"] == first["digest"]
    assert graft(["alias", "acme/topics@1", "production"]).code == 0
    assert graft(["predict", "acme/topics:production", "quick brown fox", "--json"]).json == first
    assert graft(["rm", "acme/topics@2"]).code == 0
    assert graft(ask).json == first
    # What was right on the old rows is not given up for rows that say the contrary.
    refused = graft(["train", str(region_rows), "--continue", "acme/topics", "--replay", str(rows_file)])
    assert (refused.code, "the version before answers better" in refused.err) == (2, True)
    assert graft(ask).json == first


def test_options_that_contradict_continuing_are_all_named(graft: Graft, home: Path, region_rows: Path) -> None:
    line = ["train", str(region_rows), "--continue", "acme/topics", "--base", "tiny", "--parent", "acme/topics"]
    refused = graft([*line, "--max-bytes", "1MB"])
    assert refused.code == 2
    assert all(option in refused.err for option in ("--base", "--parent", "--max-bytes"))
    alone = graft(["train", str(region_rows), "--base", "tiny", "--name", "acme/x", "--replay", str(region_rows)])
    assert (alone.code, "--continue" in alone.err) == (2, True)


def test_a_budget_of_bytes_is_kept_and_told(graft: Graft, home: Path, region_rows: Path) -> None:
    options = ("--strategy", "lora", "--set", "fine_tuning.epochs=1", "--max-bytes", "30KB", "--json")
    published = graft(["train", str(region_rows), "--base", "tiny", "--name", "acme/small", *options]).json
    assert published["size_bytes"] <= 30_000
    assert published["manifest"]["settings"]["lora"]["rank"] < 8
    refused = graft(["train", str(region_rows), "--base", "tiny", "--name", "acme/small", "--max-bytes", "2 kB"])
    assert (refused.code, "a head of 2 classes takes" in refused.err) == (2, True)
    unread = graft(["train", str(region_rows), "--base", "tiny", "--name", "acme/small", "--max-bytes", "big"])
    assert (unread.code, "'big' is no size" in unread.err) == (2, True)


def test_a_full_fine_tune_goes_on_and_what_it_forgets_is_told(
    graft: Graft, home: Path, region_rows: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whether so small a model learns so few rows is chance; the gate has tests of its own.
    monkeypatch.setattr("graftwork.training.continuing.pass_gate", lambda *_args, **_named: "not asked")
    tuning = ("fine_tuning.epochs=1", "fine_tuning.learning_rate=5e-4")
    settings = [word for setting in (*tuning, "forgetting.fisher_rows=8") for word in ("--set", setting)]
    line = ["train", str(rows_file), "--base", "tiny", "--name", "acme/full", "--strategy", "full", *settings]
    assert graft([*line, "--set", "forgetting.keep_fisher=true"]).code == 0
    again = ["train", str(region_rows), "--continue", "acme/full", "--set", "forgetting.protection=ewc"]
    planned = graft([*again, "--dry-run", "--json"]).json
    assert planned["memory"]["anchor"] == 2 * planned["memory"]["trained"] > 0
    old = write(tmp_path / "old.csv", 20, seed=11)
    done = graft([*again, "--source", str(old)])
    assert done.code == 0, done.err
    assert "Forgetting: accuracy on rows of earlier tasks" in done.out
    (lost,) = graft(["report", "acme/full", "--json"]).json["evaluation"]["forgetting"]
    assert lost["against"] == graft(["show", "acme/full@1", "--json"]).json["digest"]
    assert "Forgetting: accuracy" in graft(["report", "acme/full"]).out
    assert graft(["predict", "acme/full", "quick brown fox", "--json"]).json["model"] == "acme/full@2"
    assert graft(["fsck"]).code == 0
    # A head alone has nothing below it that could be pulled back, and what is trained anew forgets nothing.
    head = graft(["train", str(region_rows), "--continue", "acme/topics", "--set", "forgetting.protection=l2-sp"])
    assert (head.code, "l2-sp pulls at what is trained below the head" in " ".join(head.err.split())) == (2, True)
    alone = graft([*line, "--source", str(old)])
    assert (alone.code, "--source goes with --continue" in alone.err) == (2, True)
