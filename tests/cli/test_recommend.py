"""`graft recommend`, from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from graftwork.cli.durations import parse_duration
from graftwork.cli.front import Point, draw_front, letters
from graftwork.errors import SettingsInvalid
from tests.cli.running import Graft

QUICK = ["--set", "fine_tuning.epochs=2", "--set", "lora.rank=2", "--set", "feature_extraction.folds=2"]


@pytest.mark.usefixtures("home")
def test_it_recommends_what_train_then_takes(graft: Graft, rows_file: Path) -> None:
    line = ["recommend", str(rows_file), "--budget", "2s", *QUICK]
    made = graft([*line, "--json"]).json
    assert made["rows"] == 48
    assert made["chosen"] == made["candidates"][0]
    assert made["command"].startswith(f"graft train {rows_file} --base tiny --strategy {made['chosen']['strategy']}")
    words = made["command"].replace("TENANT/NAME", "acme/found").split()[1:]
    assert graft([*words, "--json"]).json["strategy"] == made["chosen"]["strategy"]
    said = graft(line)
    assert said.code == 0
    for text in ("Bases for 48 rows of 2 classes", "Candidates", "Recommended: ", "Next: graft train"):
        assert text in said.out


def test_train_says_that_a_base_was_made_for_other_languages(graft: Graft, rows_file: Path, tiny_folder: Path) -> None:
    assert graft(["base", "add", str(tiny_folder), "--name", "tiny", "--set", "languages=[ja]"]).code == 0
    line = ["train", str(rows_file), "--base", "tiny", "--name", "acme/a", "--strategy", "feature-extraction"]
    told = graft(line).told
    assert "suits these rows badly" in told
    assert "it was made for ja" in told


@pytest.mark.usefixtures("home")
def test_where_this_machine_has_a_price_training_is_priced(graft: Graft, rows_file: Path, tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("date: 2026-01-01\nhardware:\n  here: {title: mine, hourly: 36}\n")
    made = graft(["recommend", str(rows_file), "--budget", "1s", *QUICK, "--prices", str(prices), "--json"]).json
    assert all(one["price"] == pytest.approx(one["seconds"] / 100, abs=1e-4) for one in made["candidates"])


@pytest.mark.usefixtures("home")
def test_a_budget_too_small_for_any_trial_is_told(graft: Graft, rows_file: Path) -> None:
    said = graft(["recommend", str(rows_file), "--budget", "1ms"])
    assert said.code == 0
    assert "the choice rests on rules of thumb alone" in said.told
    assert "are enough for LoRA" in said.told


def test_mistakes_are_told(graft: Graft, rows_file: Path, home: Path, tmp_path: Path) -> None:
    for wrong in ("soon", "0s", "5 weeks", "-3s"):
        refused = graft(["recommend", str(rows_file), f"--budget={wrong}", "--json"])
        assert refused.code == 2
        assert "is no length of time" in refused.error["message"]
    one_class = tmp_path / "one.csv"
    one_class.write_text("text,label\nfox,a\ndog,a\n")
    assert graft(["recommend", str(one_class), "--json"]).error["code"] == "data-rejected"
    assert graft(["recommend", str(rows_file), "--base", "gone", "--json"]).error["code"] == "not-found"
    assert graft(["recommend", str(rows_file), "--set", "lora.rnak=3", "--json"]).error["code"] == "settings-invalid"
    assert (home / "runs").exists() is False or not list((home / "runs").rglob("*.safetensors"))


def test_without_a_base_it_says_how_to_add_one(graft: Graft, rows_file: Path) -> None:
    refused = graft(["recommend", str(rows_file), "--json"])
    assert refused.code == 2
    assert "graft base add" in refused.error["remedy"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("5m", 300), ("90", 90), ("1.5h", 5400), ("50ms", 0.05), (" 2 min ", 120), ("3S", 3)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


def test_no_duration_is_refused() -> None:
    with pytest.raises(SettingsInvalid, match="no length of time"):
        parse_duration("1e3s")


def test_the_picture_puts_the_best_on_top_and_the_slowest_right() -> None:
    points = [Point(100, 0.9, True), Point(1, 0.7, True), Point(10, 0.8, False)]
    lines = draw_front(points)
    drawn = [(letter, row, line.find(letter)) for row, line in enumerate(lines[:12]) for letter in "ABc"]
    where = {letter: (row, column) for letter, row, column in drawn if column >= 0}
    assert where["A"][0] == 0
    assert where["B"][0] == 11
    assert where["B"][1] < where["c"][1] < where["A"][1]
    assert where["A"][1] - where["c"][1] == pytest.approx(where["c"][1] - where["B"][1], abs=1)  # logarithmic
    assert lines[0].startswith("90.0%")
    assert lines[-1].split() == ["1", "s", "100", "s"]
    assert letters(28)[25:] == ["Z", "·", "·"]
    assert "A" in "".join(draw_front([Point(5, 0.5, True)]))
