from __future__ import annotations

import csv
import json
import os
import pty
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from tests.cli.running import Graft, environment
from tests.cli.samples import draw_rows

DESCRIBED = {
    "reference", "digest", "aliases", "strategy", "labels", "base", "base_fingerprint", "parent", "size_bytes",
    "share_of_base", "created_at", "record",
}  # fmt: skip


def line_for(file: Path, *options: str, name: str = "acme/topics") -> list[str]:
    return ["train", str(file), "--base", "tiny", "--name", name, *options]


def test_training_publishes_the_next_version_and_says_how_good_it_is(graft: Graft, home: Path, rows_file: Path) -> None:
    done = graft(line_for(rows_file, "--strategy", "feature-extraction"))
    assert done.code == 0
    assert "Published acme/topics@2 (feature-extraction), digest " in done.out
    assert "Quality on 12 test rows" in done.out
    assert "always 'animal'" in done.out
    assert 'graft predict acme/topics "your text"' in done.out
    assert "[" not in done.out.splitlines()[-1]


def test_json_holds_the_manifest_and_the_same_seed_gives_the_same_digest(
    graft: Graft, home: Path, rows_file: Path
) -> None:
    done = graft(line_for(rows_file, "--strategy", "lora", "--set", "fine_tuning.epochs=1", "--json"))
    published = done.json
    assert done.err == ""
    assert set(published) == DESCRIBED | {"manifest"}
    assert published["reference"] == "acme/topics@2"
    assert published["labels"] == ["animal", "legal"]
    assert published["base"] == "tiny/1/base"
    assert published["strategy"] == "lora"
    record = published["record"]
    assert record["rows_from"] == str(rows_file)
    assert list(record["seconds"]) == ["load", "check", "features", "probe", "strategy", "judge"]
    assert 0 < sum(record["seconds"].values()) <= record["total_seconds"] + 0.01
    assert 0 < record["seconds_to_first_step"] < time.time() - psutil.Process().create_time()
    assert published["manifest"]["settings"]["fine_tuning"]["epochs"] == 1
    assert published["manifest"]["dataset"]["rows"] == 60
    assert set(published["manifest"]["metrics"]) >= {"accuracy", "macro_f1", "log_loss", "majority", "probe"}
    again = graft(line_for(rows_file, "--strategy", "lora", "--set", "fine_tuning.epochs=1", "--json")).json
    assert (again["reference"], again["digest"]) == ("acme/topics@3", published["digest"])
    other = line_for(rows_file, "--strategy", "lora", "--set", "fine_tuning.epochs=1", "--seed", "1", "--json")
    assert graft(other).json["digest"] != published["digest"]


def test_without_an_optimizer_step_there_is_none_to_time(graft: Graft, home: Path, rows_file: Path) -> None:
    record = graft(line_for(rows_file, "--strategy", "feature-extraction", "--json")).json["record"]
    assert "seconds_to_first_step" not in record


def test_auto_says_why(graft: Graft, home: Path, rows_file: Path) -> None:
    done = graft(line_for(rows_file))
    assert done.code == 0
    assert "Chosen: feature extraction: its probe errs on only" in done.told


def test_given_test_rows_judge(graft: Graft, home: Path, rows_file: Path, tmp_path: Path) -> None:
    test = tmp_path / "test.csv"
    with test.open("w", newline="") as file:
        csv.writer(file).writerows([("words", "kind"), *draw_rows(4, seed=9)])
    train = tmp_path / "train.csv"
    train.write_text("words,kind\n" + rows_file.read_text().partition("\n")[2])
    columns = ["--text", "words", "--label", "kind"]
    line = line_for(train, "--test", str(test), *columns, "--strategy", "feature-extraction", "--json")
    dataset = graft(line).json["manifest"]["dataset"]
    assert (dataset["test_rows"], dataset["test_source"]) == (8, "given")


def test_settings_mistakes_are_all_told_before_anything_is_read(graft: Graft, home: Path, tmp_path: Path) -> None:
    line = line_for(tmp_path / "none.csv", "--set", "lora.rnk=3", "--set", "colour=red", "--seed", "-4", "--json")
    done = graft([*line, "--strategy", "magic"])
    assert done.code == 2
    assert done.error["code"] == "settings-invalid"
    assert {p["where"]: p["what"] for p in done.error["problems"]} == {
        "lora.rnk": "is unknown; did you mean lora.rank?",
        "colour": "is unknown",
        "seed": "input should be greater than or equal to 0, not -4",
        "strategy": "input should be 'auto', 'feature-extraction', 'lora', 'prefix-tuning', 'partial' or 'full', "
        "not 'magic'",
    }
    assert "lora.rank" in done.error["remedy"]


@pytest.mark.parametrize("name", ["topics", "acme/topics@3", "acme/topics:production", "Acme/Topics", "a/b/c", ""])
def test_a_name_to_publish_under_is_checked_first(graft: Graft, home: Path, rows_file: Path, name: str) -> None:
    done = graft(line_for(rows_file, "--json", name=name))
    assert (done.code, done.error["code"]) == (2, "reference-malformed")
    assert "tenant/name" in done.error["remedy"] or "Write acme/topics" in done.error["remedy"]


def test_expected_latest_publishes_only_on_what_was_seen(graft: Graft, home: Path, rows_file: Path) -> None:
    late = line_for(rows_file, "--strategy", "feature-extraction", "--json", "--expected-latest")
    done = graft([*late, "0"])
    assert (done.code, done.error["code"]) == (2, "conflict")
    assert "should have been at version 0, but its newest version is 1" in done.error["message"]
    assert [v["reference"] for v in graft(["list", "--json"]).json] == ["acme/topics@1"]
    assert graft([*late, "1"]).json["reference"] == "acme/topics@2"
    assert graft(["fsck", "--json"]).json["errors"] == 0


def test_who_is_late_already_is_told_before_anything_is_read(graft: Graft, home: Path) -> None:
    done = graft(line_for(Path("nowhere.csv"), "--json", "--expected-latest", "0"))
    assert (done.code, done.error["code"]) == (2, "conflict")
    assert "should have been at version 0, but its newest version is 1" in done.error["message"]


def test_warnings_of_the_rows_are_told_and_kept(graft: Graft, home: Path, rows_file: Path, tmp_path: Path) -> None:
    doubtful = tmp_path / "rows.csv"
    lines = rows_file.read_text().splitlines()
    doubtful.write_text("\n".join([*lines, lines[1], "the fox \N{GRINNING FACE},animal"]) + "\n")
    done = graft(line_for(doubtful, "--strategy", "feature-extraction"))
    assert "warning: 1 row repeats an earlier one" in done.err
    assert "rows 62" in done.err
    report = graft(["report", "acme/topics", "--json"]).json
    assert "duplicate-rows" in [warning["code"] for warning in report["warnings"]]


def test_measurements_go_to_a_file_and_nothing_is_left_of_the_run(
    graft: Graft, home: Path, rows_file: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log.jsonl"
    options = ["--strategy", "lora", "--set", "fine_tuning.epochs=1", "--set", "fine_tuning.batch_size=16"]
    record = graft(line_for(rows_file, *options, "--log", str(log), "--json")).json["record"]
    measured = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in measured] == [("lora", step) for step in (0, 1, 2, 3, 3)]
    assert set(measured[0]) == {
        "stage", "step", "epoch", "validation_loss", "validation_accuracy", "majority_accuracy", "seconds",
    }  # fmt: skip
    of_a_step = {"stage", "step", "epoch", "loss", "rate", "gradient_norm", "seconds"}
    assert set(measured[1]) == of_a_step | {"seconds_to_first_step"}
    assert measured[1]["seconds_to_first_step"] == record["seconds_to_first_step"]
    assert set(measured[2]) == of_a_step
    assert measured[1]["epoch"] == pytest.approx(1 / 3, abs=1e-3)
    assert {path.name for path in (home / "runs" / "acme").iterdir()} == {".topics.lock"}


def test_tensorboard_reads_what_the_log_holds(graft: Graft, home: Path, rows_file: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log, board = tmp_path / "log.jsonl", tmp_path / "board"
    options = ["--strategy", "lora", "--set", "fine_tuning.epochs=1", "--set", "fine_tuning.batch_size=16"]
    assert graft(line_for(rows_file, *options, "--log", str(log), "--tensorboard", str(board), "--json")).code == 0
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    wanted = {
        f"lora/{name}": [(line["step"], float(np.float32(line[name]))) for line in logged if name in line]
        for name in {name for line in logged for name in line} - {"stage", "step"}
    }
    (folder,) = board.iterdir()
    events = EventAccumulator(str(folder)).Reload()
    shown = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert folder.name == "acme-topics"
    assert shown == wanted
    assert len(shown["lora/loss"]) == 3


def test_nothing_to_resume_is_said(graft: Graft, home: Path, rows_file: Path) -> None:
    done = graft(line_for(rows_file, "--strategy", "feature-extraction", "--resume"))
    assert done.code == 0
    assert "there is nothing to resume: training begins at the beginning" in done.err


def test_a_folder_in_the_way_of_checkpoints_is_refused(graft: Graft, home: Path, rows_file: Path) -> None:
    strange = home / "runs" / "acme" / "topics" / "thesis.txt"
    strange.parent.mkdir(parents=True)
    strange.write_text("years of work")
    done = graft(line_for(rows_file, "--strategy", "feature-extraction", "--json"))
    assert (done.code, done.error["code"]) == (2, "settings-invalid")
    assert done.error["problems"] == [{"where": str(strange), "what": "is in the way"}]
    assert strange.read_text() == "years of work"


@pytest.mark.parametrize(
    ("strategy", "settings", "told"),
    [
        ("lora", ("lora.targets=[valu]",), "'valu' matches no linear layer; did you mean value?"),
        ("lora", ("lora.rank=100",), "its weight is 32 x 48, so give at most 32"),
        (
            "partial",
            ("partial.freeze_until=encoder.layr.1",),
            "is no layer of this base; did you mean encoder.layer.1?",
        ),
        ("partial", ("partial.freeze_layers=auto", "partial.budget=1e-6"), "Give at least partial.budget="),
        ("partial", ("lora.rank=3",), "has no effect with strategy partial: it is a setting of lora"),
        (
            "partial",
            ("partial.freeze_until=1", "partial.freeze_ratio=0.5"),
            "give one of freeze_until and freeze_ratio",
        ),
        ("lora", ("fine_tuning.class_weights.spam=3",), "The labels are animal, legal."),
    ],
)
def test_what_does_not_fit_is_told_with_what_would(
    graft: Graft, home: Path, rows_file: Path, strategy: str, settings: tuple[str, ...], told: str
) -> None:
    line = line_for(rows_file, "--strategy", strategy, *(word for text in settings for word in ("--set", text)))
    done = graft(line)
    assert done.code == 2
    assert told in done.told
    assert [version["reference"] for version in graft(["list", "--json"]).json] == ["acme/topics@1"]


def test_settings_of_the_loop_that_cannot_be_are_all_told(graft: Graft, home: Path, rows_file: Path) -> None:
    settings = ("schedule=square", "label_smoothing=1", "layer_decay=0", "class_weights=none", "precision=int8")
    line = line_for(rows_file, "--json", *(word for text in settings for word in ("--set", f"fine_tuning.{text}")))
    done = graft(line)
    assert (done.code, done.error["code"]) == (2, "settings-invalid")
    assert {p["where"].removeprefix("fine_tuning.").partition(".")[0] for p in done.error["problems"]} == {
        text.partition("=")[0] for text in settings
    }


def test_on_a_terminal_progress_is_drawn_in_colours(home: Path, rows_file: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "graftwork", *line_for(rows_file, "--strategy", "feature-extraction")]
    changes = {"TERM": "xterm-256color", "COLUMNS": "120", "GRAFT_DTYPE": "float32"}
    child = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment(**changes))
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # how Linux tells that the other end is closed
            break
        if not chunk:
            break
        shown += chunk
    os.close(ours)
    assert child.wait() == 0
    text = shown.decode()
    assert "\x1b[1;32macme/topics@2\x1b[0m" in text
    for stage in ("loading the base model", "reading texts through the backbone", "fitting the probe"):
        assert stage in text
    assert "48/48" in text  # read through the backbone; the other twelve are only judged on


def test_settings_of_a_file_and_of_a_published_adapter_are_taken_again(
    graft: Graft, home: Path, rows_file: Path, tmp_path: Path
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("strategy: lora\nseed: 4\nlora: {rank: 2}\nfine_tuning: {epochs: 1, batch_size: 16}\n")
    first = graft(line_for(rows_file, "--config", str(file), "--json")).json
    assert (first["manifest"]["settings"]["lora"]["rank"], first["manifest"]["seed"]) == (2, 4)
    again = graft(line_for(rows_file, "--like", first["reference"], "--json")).json
    assert again["digest"] == first["digest"]
    other = graft(line_for(rows_file, "--like", first["reference"], "--set", "lora.rank=3", "--json")).json
    assert (other["manifest"]["settings"]["lora"]["rank"], other["manifest"]["seed"]) == (3, 4)
    both = graft(line_for(rows_file, "--like", first["reference"], "--config", str(file)))
    assert (both.code, "Give one of them" in both.err) == (2, True)
    unknown = graft(line_for(rows_file, "--like", "acme/nothing"))
    assert unknown.code == 2
    assert "acme/nothing" in unknown.err


def test_a_dry_run_tells_the_plan_and_publishes_nothing(graft: Graft, home: Path, rows_file: Path) -> None:
    before = graft(["list", "--json"]).json
    plan = graft(line_for(rows_file, "--strategy", "lora", "--dry-run", "--json")).json
    assert (plan["strategy"], plan["rows"], plan["layers"]) == ("lora", 48, 3)
    assert plan["settings"]["strategy"] == "lora"
    assert plan["memory"]["peak"] > plan["memory"]["weights"] + plan["memory"]["activations"]
    told = graft(line_for(rows_file, "--dry-run"))
    assert "parameters are trained" in told.out
    assert "GFLOP/s" in told.out
    assert graft(["list", "--json"]).json == before


def test_a_search_for_a_rate_finds_what_a_run_would_find_and_leaves_no_trace(
    graft: Graft, home: Path, rows_file: Path
) -> None:
    settings = ("lora.rank=2", "fine_tuning.epochs=1", "fine_tuning.learning_rate=auto")
    line = line_for(rows_file, "--strategy", "lora", *(word for text in settings for word in ("--set", text)))

    def everything() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in home.rglob("*") if path.is_file()}

    def dice() -> tuple[list[int], str, object]:
        return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()

    before, thrown = everything(), dice()
    found = graft([*line, "--find-rate", "--json"]).json
    told = graft([*line, "--find-rate"])
    assert everything() == before
    assert dice() == thrown
    assert not (home / "runs").joinpath("acme", "topics").exists()
    assert found["strategy"] == "lora"
    assert found["tried"][0]["rate"] == pytest.approx(1e-6)
    least = min(found["tried"], key=lambda one: one["loss"])
    assert found["learning_rate"] == pytest.approx(least["rate"] / 10, rel=0.05)
    assert f"--set fine_tuning.learning_rate={found['learning_rate']:g}" in told.out
    assert len([row for row in told.out.splitlines() if row.rstrip().endswith(" least")]) == 1
    assert len(told.out.splitlines()) == len(found["tried"]) + 3
    trained = graft([*line, "--json"]).json["manifest"]["settings"]["fine_tuning"]
    assert trained["learning_rate"] == found["learning_rate"]


def test_a_search_for_a_rate_is_refused_where_there_is_none_and_beside_what_trains(
    graft: Graft, home: Path, rows_file: Path
) -> None:
    head = graft(line_for(rows_file, "--strategy", "feature-extraction", "--find-rate", "--json"))
    assert (head.code, head.error["code"]) == (2, "settings-invalid")
    assert "needs no learning rate" in head.error["message"]
    both = graft(line_for(rows_file, "--find-rate", "--resume", "--dry-run", "--json"))
    assert (both.code, both.error["message"]) == (
        2,
        "--dry-run and --find-rate and --resume cannot be given together",
    )


def test_a_plan_needs_a_configuration_alone(graft: Graft, home: Path, tmp_path: Path) -> None:
    from transformers import BertConfig

    BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64).save_pretrained(
        tmp_path
    )
    plan = graft(
        ["plan", str(tmp_path / "config.json"), "--rows", "10", "--tokens", "8", "--flops", "1e9", "--json"]
    ).json
    assert (plan["layers"], plan["tokens"], plan["matrix_seconds"]) == (2, 80, plan["flops"] / 1e9)
    long = graft(["plan", str(tmp_path), "--tokens", "513"])
    assert (long.code, "the base reads 512" in long.err) == (2, True)
    for option, value in (("--strategy", "magic"), ("--dtype", "int3")):
        wrong = graft(["plan", str(tmp_path), option, value])
        assert (wrong.code, f"'{value}'" in wrong.err) == (2, True)
    missing = graft(["plan", str(tmp_path / "nowhere")])
    assert (missing.code, "config.json" in missing.err) == (2, True)
