"""Adapters of several tasks, from files to answers."""

from __future__ import annotations

import csv
import random
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.cli.running import Graft, run_graft
from tests.cli.samples import draw_rows

PAGE = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text("utf-8")
_FAST = ["--set", "fine_tuning.epochs=1", "--set", "lora.rank=2", "--set", "max_length=16"]


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="session")
def task_files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A file for each of three tasks, of sizes that differ, and one file of all with gaps."""
    folder, source = tmp_path_factory.mktemp("tasks"), random.Random(0)
    topic = draw_rows(24)
    long = [(text, "long" if text.count(" ") > 3 else "short") for text, _ in draw_rows(18, seed=1)]
    first = [(text, min(text.split())[0]) for text, _ in draw_rows(30, seed=2)]
    first = [(text, "early" if letter < "d" else "late") for text, letter in first]
    table = [
        (text, topic if source.random() < 0.7 else "", "long" if text.count(" ") > 3 else "short")
        for text, topic in draw_rows(30, seed=3)
    ]
    return {
        "topic": _write(folder / "topic.csv", ("text", "label"), topic),
        "length": _write(folder / "length.csv", ("text", "label"), long),
        "first": _write(folder / "first.csv", ("text", "label"), first),
        "table": _write(folder / "table.csv", ("text", "subject", "length"), table),
    }


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory, furnished: Path, task_files: Mapping[str, Path]) -> Path:
    """A furnished home that has an adapter of three tasks, too, by the command line itself."""
    home = shutil.copytree(furnished, tmp_path_factory.mktemp("tasks") / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_HOME", str(home))
        patch.setenv("GRAFT_DTYPE", "float32")
        named = [f"--task={name}={task_files[name]}" for name in ("topic", "length", "first")]
        strategy = ["--strategy", "lora", "--compare-single"]
        done = run_graft(["train", *named, "--base", "tiny", "--name", "acme/mail", *strategy, *_FAST])
        assert done.code == 0, done.err
        assert "in company" in done.told
    return home


@pytest.fixture
def asking(published: Path, graft_home: Path, graft: Graft) -> Graft:
    """The command line over a home that has it."""
    shutil.copytree(published, graft_home, dirs_exist_ok=True)
    return graft


def test_an_adapter_of_three_tasks_is_shown_with_each_of_them(asking: Graft) -> None:
    shown = asking(["show", "acme/mail", "--json"]).json["manifest"]
    assert shown["format"] == 2
    assert [task["name"] for task in shown["tasks"]] == ["first", "length", "topic"]
    assert shown["labels"] == [f"{task['name']}/{label}" for task in shown["tasks"] for label in task["labels"]]
    for task in shown["tasks"]:
        assert task["metrics"]["rows"] == task["dataset"]["test_rows"] > 0
        assert task["alone"]["accuracy"]["rows"] == task["metrics"]["rows"]
    assert shown["settings"]["tasks"] == {"temperature": 2.0, "compare_single": True}
    assert "acme/mail@1" in asking(["list"]).out
    told = asking(["show", "acme/mail"]).told
    assert "task topic" in told
    assert "length/long" not in told
    assert "3 test rows" not in asking(["report", "acme/mail"]).told


def test_the_commands_of_the_page_run(
    home: Path, graft: Graft, task_files: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    for name, task in (("news", "topic"), ("tweets", "length"), ("mails", "first"), ("table", "table")):
        content = task_files[task].read_text("utf-8")
        Path(f"{name}.csv").write_text(content.replace("text,subject,length", "text,subject,mood"), "utf-8")
    lines = [shlex.split(line.replace("minilm", "tiny"))[1:] for line in block.splitlines()]
    lines[0] += [*_FAST, "--strategy", "lora"]
    done = [(line, graft(line)) for line in lines]
    assert [(line, one.err) for line, one in done if one.code != 0] == []


def test_all_tasks_are_answered_or_the_one_that_is_asked_for(asking: Graft) -> None:
    ask = ["predict", "acme/mail", "court granted the appeal", "quick brown fox", "--json"]
    both = asking(ask).json["results"]
    assert [set(result["tasks"]) for result in both] == [{"topic", "length", "first"}] * 2
    for result in both:
        for scores in result["tasks"].values():
            assert sum(one["score"] for one in scores) == pytest.approx(1)
    one = asking([*ask, "--task", "topic"]).json
    assert one["task"] == "topic"
    assert [result["labels"] for result in one["results"]] == [result["tasks"]["topic"] for result in both]
    assert "animal" in asking(["predict", "acme/mail", "quick brown fox"]).told


def test_one_task_is_judged_on_its_rows(asking: Graft, task_files: Mapping[str, Path]) -> None:
    judged = asking(["evaluate", "acme/mail", "--data", str(task_files["topic"]), "--task", "topic", "--json"]).json
    assert judged["task"] == "topic"
    assert judged["evaluation"]["classes"] == ["animal", "legal"]
    told = asking(["evaluate", "acme/mail", "--data", str(task_files["topic"]), "--task", "topic"]).told
    assert "was trained on" in told


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (["predict", "acme/mail", "fox", "--task", "topics"], "Did you mean 'topic'?"),
        (["predict", "acme/topics", "fox", "--task", "topic"], "has no tasks to choose from"),
        (["evaluate", "acme/mail", "--data", "FILE"], "answers several tasks (first, length, topic)"),
        (["compare", "acme/mail", "acme/topics", "--data", "FILE"], "acme/mail@1: answers several tasks"),
        (["train", "FILE", "--continue", "acme/mail"], "answers several tasks cannot be continued"),
        (["train", "FILE", "--parent", "acme/mail", "--name", "acme/x"], "on top of one that answers several tasks"),
    ],
)
def test_what_one_answer_alone_can_be_given_to_is_refused(
    line: list[str], told: str, asking: Graft, rows_file: Path
) -> None:
    done = asking([str(rows_file) if word == "FILE" else word for word in line])
    assert done.code == 2
    assert told in done.told


def test_label_columns_of_one_file_are_tasks_and_may_have_gaps(
    home: Path, graft: Graft, task_files: Mapping[str, Path]
) -> None:
    train = ["train", str(task_files["table"]), "--task", "topic=subject", "--task", "length", "--base", "tiny"]
    named = [*train, "--name", "acme/columns", "--strategy", "feature-extraction"]
    done = graft(named)
    assert done.code == 0, done.err
    manifest = graft(["show", "acme/columns", "--json"]).json["manifest"]
    rows = {task["name"]: task["dataset"]["rows"] for task in manifest["tasks"]}
    assert rows["length"] == 60
    assert 30 < rows["topic"] < 60
    assert manifest["dataset"]["rows"] == sum(rows.values())


@pytest.mark.parametrize(
    ("words", "problems"),
    [
        (["--task=a=A", "--task=a=B"], ["names the task 'a' again", "only task"]),
        (["--task=a=A"], ["only task"]),
        (["--task=a=A", "--task=b=A"], ["takes the same"]),
        (["--task=a", "--task=b=B"], ["names no file"]),
        (["--task=a=A", "--task=b=B", "--test", "A", "--parent", "acme/topics"], ["--test", "--parent"]),
        (["--task=a b=A", "--task=c/d=B"], ["task 'a b'", "task 'c/d'"]),
        (["A", "--task=label", "--task=mood"], ["task mood, column 'mood'"]),
        (["--compare-single", "A"], ["--compare-single"]),
    ],
)
def test_tasks_that_cannot_be_trained_are_all_named(
    words: list[str], problems: list[str], home: Path, graft: Graft, task_files: Mapping[str, Path]
) -> None:
    files = {"A": str(task_files["topic"]), "B": str(task_files["length"])}
    line = [files.get(word, word.replace("=A", f"={files['A']}").replace("=B", f"={files['B']}")) for word in words]
    done = graft(["train", *line, "--base", "tiny", "--name", "acme/none", "--json"])
    assert done.code == 2
    found = " ".join(f"{one['where']} {one['what']}" for one in done.error["problems"])
    assert all(problem in found for problem in problems), found


def test_a_dry_run_plans_one_delta_with_a_head_for_each_task(
    home: Path, graft: Graft, task_files: Mapping[str, Path]
) -> None:
    before = graft(["list", "--json"]).json
    named = [f"--task={name}={task_files[name]}" for name in ("topic", "length")]
    line = ["train", *named, "--base", "tiny", "--name", "acme/none", "--strategy", "lora", "--json"]
    plan = graft([*line, "--dry-run"]).json
    assert graft(["list", "--json"]).json == before
    manifest = graft([*line, "--set", "fine_tuning.epochs=1"]).json["manifest"]
    assert plan["rows"] == manifest["dataset"]["train_rows"] + manifest["dataset"]["validation_rows"]
    assert plan["head"] == len(manifest["labels"]) * (plan["width"] + 1)


def test_rows_and_tasks_without_labels_are_named(home: Path, graft: Graft, tmp_path: Path) -> None:
    rows = [("fox jumps", "x", "", ""), ("lazy dog", "", "", ""), ("case granted", "y", "", "")]
    file = _write(tmp_path / "gaps.csv", ("text", "one", "two", "three"), rows)
    done = graft(["train", str(file), "--task=one", "--task=two", "--base", "tiny", "--name", "acme/none", "--json"])
    assert done.code == 2
    assert [one["where"] for one in done.error["problems"]] == ["task two", f"{file}, row 3"]
