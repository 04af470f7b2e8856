"""Full disks and folders nobody may write to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backbones.tiny import save_model
from tests.cli.forked import Job, Outcome, run_jobs
from tests.cli.running import Graft, run_graft

# Below 32 kB SQLite cannot even begin, and does not say why; above, the file that finds no space is the project's own.
LIMITS = {0: "storage-error", 40_000: "storage-full"}


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("other") / "model", "bert", vocab_size=640)


@pytest.fixture(scope="module")
def locked_home(tmp_path_factory: pytest.TempPathFactory, furnished: Path) -> Iterator[Path]:
    """A furnished home that can be read and not be written."""
    home = shutil.copytree(furnished, tmp_path_factory.mktemp("locked") / "home")
    for path in [home, *home.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield home
    for path in [home, *home.rglob("*")]:
        path.chmod(0o755)


def lines(other: Path, rows: Path) -> dict[str, list[str]]:
    train = ["train", str(rows), "--base", "tiny", "--name", "acme/topics", "--strategy", "lora", "--seed", "1"]
    return {
        "base add": ["base", "add", str(other), "--name", "other", "--json"],
        "train": [*train, "--set", "fine_tuning.epochs=1", "--set", "lora.rank=32", "--json"],
        "fetch and train": [*train, "--set", "fine_tuning.epochs=1", "--json"],
    }


Run = tuple[str, int]


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, furnished: Path, other: Path, rows_file: Path, locked_home: Path
) -> dict[Run | str, tuple[Path, Outcome]]:
    """Everything that needs a process of its own, done by one."""
    folder = tmp_path_factory.mktemp("full")
    jobs: dict[Run | str, Job] = {}
    for name, line in lines(other, rows_file).items():
        for limit in LIMITS:
            home = shutil.copytree(furnished, folder / f"{name}-{limit}")
            if name == "fetch and train":
                shutil.rmtree(home / "cache")
            jobs[name, limit] = Job(str(home), line, file_limit=limit)
    jobs["locked list"] = Job(str(locked_home), ["list", "--json"], unprivileged=True)
    jobs["locked train"] = Job(str(locked_home), lines(other, rows_file)["train"], unprivileged=True)
    jobs["locked new"] = Job(str(locked_home / "new"), ["list", "--json"], unprivileged=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_DTYPE", "float32")
        outcomes = run_jobs(list(jobs.values()))
    return {key: (Path(job.home), done) for (key, job), done in zip(jobs.items(), outcomes, strict=True)}


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("name", ["base add", "train", "fetch and train"])
def test_a_full_disk_is_told_and_with_space_the_same_command_succeeds(
    runs: dict[Run | str, tuple[Path, Outcome]],
    monkeypatch: pytest.MonkeyPatch,
    graft: Graft,
    other: Path,
    rows_file: Path,
    name: str,
    limit: int,
) -> None:
    home, outcome = runs[name, limit]
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.error["code"] == LIMITS[limit]
    assert "space" in outcome.error["remedy"]
    monkeypatch.setenv("GRAFT_HOME", str(home))
    assert graft(["fsck", "--json"]).json["errors"] == 0
    assert [version["reference"] for version in graft(["list", "--json"]).json] == ["acme/topics@1"]
    assert len(graft(["base", "list", "--json"]).json) == 1
    assert graft(["predict", "acme/topics", "quick brown fox"]).code == 0
    assert run_graft(lines(other, rows_file)[name]).code == 0
    assert graft(["gc", "--grace-hours", "0"]).code == 0
    assert graft(["fsck", "--json"]).json == {"errors": 0, "findings": []}


@pytest.mark.parametrize("name", ["locked list", "locked train", "locked new"])
def test_a_home_that_cannot_be_written_is_told(runs: dict[Run | str, tuple[Path, Outcome]], name: str) -> None:
    home, outcome = runs[name]
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.error["code"] == "storage-error"
    assert str(home) in outcome.error["message"]
    assert outcome.error["remedy"]


def test_a_home_below_a_file(graft: Graft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    monkeypatch.setenv("GRAFT_HOME", str(file / "home"))
    done = graft(["list", "--json"])
    assert (done.code, done.error["code"]) == (1, "storage-error")
    assert f"the folder {file / 'home'} cannot be made" in done.error["message"]
    assert "Set GRAFT_HOME to a folder you may write to." in done.error["remedy"]


def test_a_database_that_is_none(graft: Graft, graft_home: Path) -> None:
    (graft_home / "registry.db").write_bytes(b"this is no database, not at all" * 200)
    done = graft(["list", "--json"])
    assert (done.code, done.error["code"]) == (1, "storage-error")
    assert "registry.db" in json.dumps(done.error)


def test_an_export_that_finds_no_space_leaves_nothing(
    graft: Graft, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name == "manifest.json":
            raise OSError(28, "No space left on device")
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    done = graft(["export", "acme/topics", "--out", str(tmp_path / "out"), "--json"])
    assert (done.code, done.error["code"]) == (1, "storage-full")
    assert list((tmp_path / "out").iterdir()) == []
