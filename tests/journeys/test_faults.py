"""`kill -9` at any moment, and several at once: the registry is sound afterwards and the same command succeeds."""

from __future__ import annotations

import json
import random
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.backbones.tiny import save_model
from tests.cli.forked import Job, Outcome, run_jobs
from tests.cli.running import Done, furnish, run_graft
from tests.cli.samples import write_rows


def train(rows: Path, seed: int, strategy: str = "feature-extraction") -> list[str]:
    line = ["train", str(rows), "--base", "tiny", "--name", "acme/topics", "--strategy", strategy]
    return [*line, "--seed", str(seed), "--json"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "tiny", "bert")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "other", "bert", num_hidden_layers=2)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.csv")


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory, model: Path, rows: Path) -> Path:
    return furnish(tmp_path_factory.mktemp("furnished"), model, rows)


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_DTYPE", "float32")


class Home:
    """A copy of a home, and what `graft` says of it."""

    def __init__(self, source: Path, copy: Path) -> None:
        self.path = shutil.copytree(source, copy)

    def graft(self, *line: str) -> Done:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("GRAFT_HOME", str(self.path))
            return run_graft(line)

    def json(self, *line: str) -> Any:
        return self.graft(*line, "--json").json

    @property
    def errors(self) -> int:
        """What `graft fsck` finds wrong, every byte read."""
        errors: int = self.json("fsck")["errors"]
        return errors

    @property
    def findings(self) -> list[Any]:
        found: list[Any] = self.json("fsck")["findings"]
        return found

    @property
    def versions(self) -> dict[str, str]:
        """Digests of all versions of `acme/topics` by their numbers."""
        newest = self.json("show", "acme/topics")["reference"].partition("@")[2]
        shown = [self.json("show", f"acme/topics@{number}") for number in range(1, int(newest) + 1)]
        return {version["reference"]: version["digest"] for version in shown}


@dataclass(frozen=True)
class Aftermath:
    """A command that was run to its end once, and homes in which it was killed, in the order of the moments."""

    line: list[str]
    whole: Outcome
    homes: list[Home]


MOMENTS = (0.0, *(place / 1000 for place in random.Random(0).sample(range(1, 990), 4)), 0.99, 1.0)


@pytest.fixture(scope="module")
def aftermaths(
    tmp_path_factory: pytest.TempPathFactory, furnished: Path, other: Path, rows: Path
) -> dict[str, Aftermath]:
    """Each command run to its end, and killed at its first and last steps and at random ones between."""
    folder = tmp_path_factory.mktemp("killed")
    source = shutil.copytree(furnished, folder / "source")
    shutil.rmtree(source / "cache")  # so that fetching the base model is part of what is killed
    lines = {
        "base add": ["base", "add", str(other), "--name", "other", "--json"],
        "feature-extraction": train(rows, 5),
        "lora": [*train(rows, 5, strategy="lora"), "--set", "fine_tuning.epochs=1"],
    }
    shares = (None, *sorted(MOMENTS))
    homes = {name: [Home(source, folder / f"{name}-{share}") for share in shares] for name in lines}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_DTYPE", "float32")
        jobs = [
            Job(str(home.path), lines[name], kill_at=share)
            for name in lines
            for home, share in zip(homes[name], shares, strict=True)
        ]
        outcomes = iter(run_jobs(jobs))
    found = {}
    for name, line in lines.items():
        whole, *killed = [next(outcomes) for _ in shares]
        assert whole.code == 0, whole.err
        assert [outcome.code for outcome in killed] == [-signal.SIGKILL] * len(MOMENTS)
        found[name] = Aftermath(line, whole, homes[name][1:])
    return found


def test_base_add_killed_anywhere_leaves_all_or_nothing(aftermaths: dict[str, Aftermath], other: Path) -> None:
    aftermath = aftermaths["base add"]
    expected = json.loads(aftermath.whole.out)["base"]["fingerprint"]
    states = []
    for home in aftermath.homes:
        assert home.errors == 0
        states.append([base["reference"] for base in home.json("base", "list")])
        assert home.json("predict", "acme/topics", "quick brown fox")["model"] == "acme/topics@1"
        assert home.graft(*aftermath.line).json["base"]["fingerprint"] == expected
        assert [base["reference"] for base in home.json("base", "list")] == ["other/1/base", "tiny/1/base"]
        fetched = Path(home.json("base", "path", "other")["path"])
        assert (fetched / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
        assert home.graft("gc", "--grace-hours", "0").code == 0
        assert home.findings == []
    assert states[0] == ["tiny/1/base"]
    assert states[-1] == ["other/1/base", "tiny/1/base"]
    assert all(state in (states[0], states[-1]) for state in states)


@pytest.mark.parametrize("strategy", ["feature-extraction", "lora"])
def test_training_killed_anywhere_publishes_all_or_nothing(aftermaths: dict[str, Aftermath], strategy: str) -> None:
    aftermath = aftermaths[strategy]
    expected = json.loads(aftermath.whole.out)["digest"]
    counts = []
    for home in aftermath.homes:
        assert home.errors == 0
        before = home.versions
        counts.append(len(before))
        assert list(before.values())[1:] == [expected] * (len(before) - 1)
        assert home.graft(*aftermath.line).json["digest"] == expected
        assert home.versions == {**before, f"acme/topics@{len(before) + 1}": expected}
        assert home.json("predict", "acme/topics", "quick brown fox")["digest"] == expected
        assert home.graft("gc", "--grace-hours", "0").code == 0
        assert home.findings == []
        assert home.json("predict", "acme/topics@1", "quick brown fox")["model"] == "acme/topics@1"
    assert (counts[0], counts[-1], set(counts)) == (1, 2, {1, 2})


@dataclass(frozen=True)
class Race:
    """What two processes said that were about to publish at the same time, and the home they did it in."""

    home: Home
    outcomes: list[Outcome]


@pytest.fixture(scope="module")
def races(tmp_path_factory: pytest.TempPathFactory, furnished: Path, rows: Path) -> tuple[Race, Race]:
    """Two that publish whatever is there, and two that both expect version 1."""
    folder = tmp_path_factory.mktemp("races")
    homes = [Home(furnished, folder / name) for name in ("free", "expecting")]
    jobs = [
        Job(str(home.path), [*train(rows, seed), *options], gate=True)
        for home, options in zip(homes, ([], ["--expected-latest", "1"]), strict=True)
        for seed in (1, 2)
    ]
    outcomes = run_jobs(jobs)
    return Race(homes[0], outcomes[:2]), Race(homes[1], outcomes[2:])


def test_two_that_publish_one_name_at_once_make_two_versions(races: tuple[Race, Race]) -> None:
    home, outcomes = races[0].home, races[0].outcomes
    assert [outcome.code for outcome in outcomes] == [0, 0]
    made = {content["reference"]: content["digest"] for content in (json.loads(o.out) for o in outcomes)}
    assert set(made) == {"acme/topics@2", "acme/topics@3"}
    assert len(set(made.values())) == 2
    there = home.versions
    assert list(there) == ["acme/topics@1", "acme/topics@2", "acme/topics@3"]
    assert made.items() <= there.items()
    for reference in made:
        assert home.json("predict", reference, "quick brown fox")["model"] == reference
    assert home.findings == []


def test_of_two_that_expect_the_same_version_one_wins_and_the_other_is_told(races: tuple[Race, Race]) -> None:
    home, outcomes = races[1].home, races[1].outcomes
    won, lost = sorted(outcomes, key=lambda outcome: outcome.code)
    assert (won.code, lost.code, lost.out) == (0, 2, "")
    assert lost.error["code"] == "conflict"
    assert "should have been at version 1, but its newest version is 2" in lost.error["message"]
    there = home.versions
    assert list(there) == ["acme/topics@1", "acme/topics@2"]
    assert there["acme/topics@2"] == json.loads(won.out)["digest"]
    assert home.errors == 0
