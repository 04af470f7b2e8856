"""`graft cost`, `graft list --sort` and `graft leaderboard`, from the command line."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from graftwork.prices import packaged_text
from graftwork.settings import load_settings
from graftwork.wiring import open_services
from tests.cli.running import Graft

STRATEGIES = ["feature-extraction", "lora", "prefix-tuning", "partial", "full", "auto"]


def note(name: str, content: dict[str, object], reference: str = "acme/topics") -> None:
    with open_services(load_settings()) as opened:
        opened.catalog.note(opened.catalog.resolve(reference), name, content)


def test_a_run_is_priced_before_it_by_strategy_and_hardware(graft: Graft, home: Path, rows_file: Path) -> None:
    line = ["cost", str(rows_file), "--base", "tiny"]
    found = graft([*line, "--hardware", "here,t4", "--json"]).json
    lines = {(one["hardware"], one["strategy"]): one for one in found["estimates"]}
    assert list(lines) == [(on, name) for on in ("here", "t4") for name in [*STRATEGIES, "from scratch"]]
    for (on, name), one in lines.items():
        assert one["seconds"] > 0
        assert one["price"] == (None if on == "here" else pytest.approx(one["seconds"] * 0.526 / 3600))
        if name != "from scratch":
            assert one["seconds"] == pytest.approx(sum(one["stages"].values()))
            assert one["peak_bytes"] > one["planned_bytes"] > 0
            assert one["fits"] == (None if on == "here" else True)
    for on in ("here", "t4"):  # auto comes to train LoRA, for one epoch of smaller batches where LoRA has four
        short, long = (dict(lines[on, name]["stages"]) for name in ("auto", "lora"))
        assert 0 < short.pop("strategy") < long.pop("strategy")
        assert short == long
    assert found["calibration"]["measured_now"]
    assert set(found["calibration"]["steps"]) == {
        *(f"{name}, 32 rows" for name in ("lora", "prefix-tuning", "partial", "full")),
        "lora, 16 rows",  # those of auto
    }
    assert found["assumptions"]["utilisation"] == {"t4": 0.25}
    again = graft([*line, "--strategy", "lora", "--json"]).json
    assert not again["calibration"]["measured_now"]
    assert again["calibration"]["steps"] == found["calibration"]["steps"]
    told = graft([*line, "--strategy", "lora,full", "--hardware", "t4"]).told
    assert "list prices, examples to be edited" in told
    assert "taken to reach a share of its published peak (t4 25%)" in told


def test_estimates_are_corrected_by_what_runs_took(graft: Graft, home: Path, rows_file: Path) -> None:
    line = ["cost", str(rows_file), "--base", "tiny", "--strategy", "lora", "--hardware", "here", "--json"]
    first = graft(line).json
    (plain, _) = first["estimates"]
    train = ["train", str(rows_file), "--base", "tiny", "--name", "acme/tuned", "--strategy", "lora", "--json"]
    record = graft(train).json["record"]
    noted = record["cost"]
    assert (noted["strategy"], noted["machine"]) == ("lora", first["calibration"]["machine"])
    assert noted["seconds"] == pytest.approx(plain["seconds"], rel=0.2)  # the rows are checked anew
    assert record["peak_bytes"] > 10**8
    (errors,) = graft(["cost", "--errors", "--json"]).json
    ratio = record["total_seconds"] / noted["seconds"]
    assert (errors["strategy"], errors["runs"]) == ("lora", 1)
    assert errors["seconds_ratio"] == pytest.approx(ratio, abs=1e-3)
    work = record["total_seconds"] / noted["seconds_of_epochs_run"]
    assert errors["work_ratio"] == pytest.approx(work, abs=1e-3)
    assert noted["least_seconds"] < noted["seconds"] < noted["most_seconds"]
    assert noted["most_epochs"] == 4
    (corrected, _) = graft(line).json["estimates"]
    assert (corrected["corrected_by_runs"], corrected["seconds_ratio"]) == (1, pytest.approx(work))
    assert corrected["seconds"] == pytest.approx(work * sum(corrected["stages"].values()))
    least, most = corrected["range"]
    assert least < corrected["seconds"] < most
    assert "lora 1" in graft(["cost", "--errors"]).told


def test_a_run_of_a_base_that_was_never_measured_notes_no_estimate(graft: Graft, home: Path) -> None:
    assert "cost" not in graft(["show", "acme/topics", "--json"]).json["record"]
    assert "No run was estimated before it" in graft(["cost", "--errors"]).told


def test_serving_is_measured_and_priced(graft: Graft, home: Path) -> None:
    line = ["cost", "--serving", "--tenants", "50", "--rate", "5", "--tokens", "8", "--hardware", "here,cpu-c7i"]
    found = graft([*line, "--json"]).json
    assert found["base"] == "tiny/1/base"
    measured = found["measured"]
    assert measured["seconds_single"] > measured["seconds_batched"] > 0
    shown = graft(["show", "acme/topics", "--json"]).json
    assert (measured["adapters"], measured["adapter_bytes"]) == (1, shown["size_bytes"])
    each, tight, one = found["hardware"]["cpu-c7i"]["ways"]
    assert (each["instances"], each["monthly"]) == (50, pytest.approx(50 * 0.1785 * 730))
    assert one["monthly"] == pytest.approx(one["instances"] * 0.1785 * 730)
    assert tight["memory_bytes"] > one["memory_bytes"] > measured["process_bytes"]
    assert found["hardware"]["cpu-c7i"]["break_even_tenants"]["an instance each"] == 2
    assert found["hardware"]["here"]["ways"][0]["monthly"] is None
    assert "Measured here:" in graft(line).told


def test_tenants_are_told_what_they_store_and_took(graft: Graft, home: Path, tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text(f"date: {date(2026, 1, 1)}\nhardware: {{here: {{title: mine, hourly: 36}}}}\n")
    (one,) = graft(["cost", "--tenants-report", "--prices", str(prices), "--json"]).json["tenants"]
    shown = graft(["show", "acme/topics", "--json"]).json
    assert (one["tenant"], one["adapters"], one["versions"]) == ("acme", 1, 1)
    assert one["bytes"] == shown["size_bytes"]
    assert one["train_price"]["here"] == pytest.approx(0.01 * one["train_seconds"])
    assert "is gone when it ends" in graft(["cost", "--tenants-report"]).told


def test_adapters_are_ranked(graft: Graft, home: Path, rows_file: Path) -> None:
    train = ["train", str(rows_file), "--base", "tiny", "--strategy", "feature-extraction", "--name"]
    assert graft([*train, "acme/again"]).code == 0
    before = graft(["show", "acme/topics", "--json"]).json
    note("transfer", {"ratio": {"value": 1.25, "low": 1.1, "high": 1.4}})
    after = graft(["show", "acme/topics", "--json"]).json
    assert after["digest"] == before["digest"]
    assert after["record"].pop("transfer")["ratio"]["value"] == 1.25
    assert after["record"] == before["record"]

    def order(key: str) -> list[str]:
        return [one["reference"] for one in graft(["list", "--sort", key, "--json"]).json]

    assert order("transfer-ratio") == ["acme/topics@1", "acme/again@1"]
    assert order("created") == ["acme/again@1", "acme/topics@1"]
    assert {frozenset(order(key)) for key in ("accuracy", "size", "seconds")} == {
        frozenset(["acme/again@1", "acme/topics@1"])
    }
    assert "1.250 [1.100, 1.400]" in graft(["list", "--sort", "transfer-ratio"]).told
    (board,) = graft(["leaderboard", "--json"]).json
    assert [one["place"] for one in board["entries"]] == [1, 1]  # the same rows and seed
    assert board["test_rows"] == 12
    assert graft(["leaderboard", "--tenant", "nobody", "--json"]).json == []
    assert "acme/topics@1" in graft(["leaderboard"]).told


def test_mistakes_are_told(graft: Graft, home: Path, rows_file: Path, tmp_path: Path) -> None:
    def refused(*line: str) -> str:
        done = graft(["cost", *line, "--json"])
        assert done.code == 2
        return f"{done.error['message']} {done.error['remedy']} {done.error['problems']}"

    assert "nothing was asked" in refused()
    assert "--serving and --errors cannot be given together" in refused("--serving", "--errors")
    assert "no base model was named" in refused(str(rows_file))
    assert "no such strategy: lara" in refused(str(rows_file), "--base", "tiny", "--strategy", "lora,lara")
    assert "no such hardware: b200" in refused(str(rows_file), "--base", "tiny", "--hardware", "b200")
    wrong = tmp_path / "prices.yaml"
    wrong.write_text(packaged_text().replace("hourly: 0.526", "hourly: cheap").replace("step_ms: 30", "step_ms: -1"))
    said = refused("--tenants-report", "--prices", str(wrong))
    assert "hardware.t4.hourly" in said
    assert "hardware.t4.step_ms" in said
    assert graft(["cost", "--show-prices"]).out == packaged_text()


def test_the_environment_names_a_prices_file(graft: Graft, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_PRICES", str(home / "none.yaml"))
    assert "none.yaml cannot be read" in graft(["cost", "--tenants-report"]).told
