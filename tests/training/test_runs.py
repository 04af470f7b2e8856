from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from graftwork.errors import BlobDamaged, Conflict, SettingsInvalid, StorageFull, TrainingInterrupted
from graftwork.training.checkpoint import Checkpoint
from graftwork.training.interruption import Interruption
from graftwork.training.runs import Run, open_run

IDENTITY = {"rows": "a" * 64, "setting seed": "0", "package torch": "2.13"}


class Notes(list[str]):
    def __call__(self, text: str) -> None:
        self.append(text)


def checkpoint(steps: int) -> Checkpoint:
    return Checkpoint({"x": torch.tensor([float(steps)])}, {"steps": steps})


def begun(folder: Path, *, resume: bool = False, identity: dict[str, str] = IDENTITY) -> tuple[Run, Notes]:
    run, notes = Run(folder, resume=resume), Notes()
    run.begin(identity, notes)
    return run, notes


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """A run that was killed after step 5."""
    run, notes = begun(tmp_path / "run")
    run.stage("lora").save(5, lambda: checkpoint(5))
    assert notes == []
    return tmp_path / "run"


def test_a_resumed_run_is_the_same_run_at_its_newest_checkpoint(unfinished: Path) -> None:
    first, _ = begun(unfinished, resume=True)
    found = first.stage("lora").load()
    assert found is not None
    assert (found.state, found.tensors["x"].item()) == ({"steps": 5}, 5.0)
    assert first.stage("prefix").load() is None
    first.stage("lora").save(6, lambda: checkpoint(6))
    again, notes = begun(unfinished, resume=True)
    found = again.stage("lora").load()
    assert found is not None
    assert found.state == {"steps": 6}
    assert (again.id, again.resumed, notes) == (first.id, True, [])
    again.finish()
    assert not unfinished.exists()


def test_nothing_to_resume_is_said_and_begins_anew(tmp_path: Path) -> None:
    run, notes = begun(tmp_path / "run", resume=True)
    assert notes == ["there is nothing to resume: training begins at the beginning"]
    assert (run.resumed, run.stage("lora").load(), (tmp_path / "run").exists()) == (False, None, False)


def test_an_unfinished_run_is_mentioned_and_stays_until_the_new_one_has_something(unfinished: Path) -> None:
    before = (unfinished / "run.json").read_bytes()
    run, notes = begun(unfinished)
    assert "an unfinished run of this name was found" in notes[0]
    assert "--resume" in notes[0]
    assert run.stage("lora").load() is None
    assert (unfinished / "run.json").read_bytes() == before
    run.stage("other").save(1, lambda: checkpoint(1))
    assert sorted(path.name for path in unfinished.iterdir()) == ["other.safetensors", "run.json"]
    assert json.loads((unfinished / "run.json").read_bytes())["id"] == run.id


def test_another_run_is_refused_with_every_difference(unfinished: Path) -> None:
    other = {"rows": "b" * 64, "setting seed": "0", "package torch": "2.14", "setting new": "1"}
    with pytest.raises(SettingsInvalid, match="is another one, so it cannot be resumed") as caught:
        begun(unfinished, resume=True, identity=other)
    assert {str(problem) for problem in caught.value.problems} == {
        f"rows: is {'b' * 16}, but was {'a' * 16} in the unfinished run",
        "package torch: is 2.14, but was 2.13 in the unfinished run",
        "setting new: is 1, but was not there in the unfinished run",
    }
    assert begun(unfinished, resume=True)[0].resumed


@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_that_is_none_of_a_run_is_refused_and_left_alone(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SettingsInvalid, match=r"not the folder of a training run: it has no run\.json") as caught:
        begun(tmp_path, resume=resume)
    assert [problem.where for problem in caught.value.problems] == [str(tmp_path / "thesis.txt")]
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(SettingsInvalid):
        begun(tmp_path / "thesis.txt", resume=resume)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format": 2, "id": "x", "identity": {}}', b"\xff"], ids=repr)
def test_a_damaged_record_is_refused_when_it_is_to_be_resumed(unfinished: Path, content: bytes) -> None:
    (unfinished / "run.json").write_bytes(content)
    with pytest.raises(BlobDamaged, match=r"run\.json is not the record of a training run") as caught:
        begun(unfinished, resume=True)
    assert "without --resume" in caught.value.remedy
    run, notes = begun(unfinished)
    assert len(notes) == 1
    run.keep()
    assert begun(unfinished, resume=True)[0].id == run.id


def test_a_damaged_checkpoint_is_refused(unfinished: Path) -> None:
    (unfinished / "lora.safetensors").write_bytes(b"half of it")
    run, _ = begun(unfinished, resume=True)
    with pytest.raises(BlobDamaged, match=r"lora\.safetensors is no sound checkpoint"):
        run.stage("lora").load()


def test_a_full_disk_is_told_once_and_the_last_checkpoint_stays(
    unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, notes = begun(unfinished, resume=True)

    def full(*_: object, **__: object) -> None:
        raise StorageFull("the disk is full", remedy="Free space.")

    monkeypatch.setattr("graftwork.training.stage.write_checkpoint", full)
    stage = run.stage("lora", steps=1)
    for step in (6, 7):
        stage.save(step, lambda: checkpoint(9))
    assert len(notes) == 1
    assert notes[0].startswith("warning: no checkpoint could be written at step 6: the disk is full. Training goes on")
    found = begun(unfinished, resume=True)[0].stage("lora").load()
    assert found is not None
    assert found.state == {"steps": 5}


def test_checkpoints_are_due_by_steps_or_by_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("graftwork.training.stage.time.monotonic", lambda: now)
    run, _ = begun(tmp_path / "run")
    stage = run.stage("lora", steps=3, seconds=10)
    assert [stage.due(step) for step in (1, 2, 3)] == [False, False, True]
    stage.save(3, lambda: checkpoint(3))
    assert [stage.due(step) for step in (4, 5, 6)] == [False, False, True]
    now = 110.0
    assert stage.due(4)
    assert not Run().stage("lora", steps=1).due(9)


def test_at_an_evaluation_one_is_due_when_writing_the_last_was_cheap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("graftwork.training.stage.time.monotonic", lambda: now)
    run, _ = begun(tmp_path / "run")
    stage = run.stage("lora", seconds=60)
    assert stage.due(1, handy=True)

    def slow() -> Checkpoint:
        nonlocal now
        now += 2.0
        return checkpoint(1)

    stage.save(1, slow)
    now += 39.0
    assert not stage.due(2, handy=True)
    now += 1.0
    assert stage.due(2, handy=True)
    assert not stage.due(2)


def test_a_wish_to_stop_is_heard(tmp_path: Path) -> None:
    wish = Interruption()
    run = Run(tmp_path / "run", interruption=wish)
    run.begin(IDENTITY, Notes())
    run.stop_if_asked()
    wish.request()
    with pytest.raises(TrainingInterrupted, match="was asked to stop and did at dawn; nothing was published") as caught:
        run.stop_if_asked(" at dawn")
    assert caught.value.remedy == "Nothing was kept yet."
    run.keep()
    with pytest.raises(TrainingInterrupted) as caught:
        run.stop_if_asked()
    assert "--resume" in caught.value.remedy
    assert caught.value.exit_code == 75


def test_of_two_at_once_one_keeps_checkpoints_and_none_is_resumed(tmp_path: Path) -> None:
    notes = Notes()
    with open_run(tmp_path, "acme/news", note=notes) as first:
        with open_run(tmp_path, "acme/news", note=notes) as second:
            assert second.folder is None
        with (
            pytest.raises(Conflict, match="acme/news is just being trained"),
            open_run(tmp_path, "acme/news", resume=True, note=notes),
        ):
            pass
        with open_run(tmp_path, "acme/other", note=notes) as other:
            assert other.folder == tmp_path / "runs" / "acme" / "other"
    assert first.folder == tmp_path / "runs" / "acme" / "news"
    assert notes == ["acme/news is just being trained by another process too; this run keeps no checkpoints"]
    with open_run(tmp_path, "acme/news", resume=True, note=notes) as third:
        assert third.folder == first.folder
