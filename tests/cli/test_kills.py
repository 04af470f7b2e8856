"""`graft train` killed anywhere, and resumed: the same bits as if nothing had happened."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from graftwork.adaptation import STRATEGIES
from tests.cli.forked import Job, Outcome, run_jobs
from tests.cli.running import Graft
from tests.cli.samples import draw_rows

# Dropout, accumulation of unequal parts, a cached trunk and rates by layer: everything a checkpoint must know of.
SETTINGS = (
    "lora.layers=2", "lora.dropout=0.2", "lora.rank=4", "fine_tuning.batch_size=10", "fine_tuning.micro_batch_size=4",
    "fine_tuning.epochs=2", "fine_tuning.evaluate_steps=3", "fine_tuning.patience=9", "fine_tuning.layer_decay=0.8",
    "fine_tuning.label_smoothing=0.1", "fine_tuning.checkpoint_steps=1",
    # A start so strongly regularised that there is something to learn, and a rate so low that it is learned.
    "feature_extraction.penalties=[30]", "fine_tuning.learning_rate=1e-4",
)  # fmt: skip
# Of every other strategy a whole run, and one that is killed there.
OTHERS = {
    "feature-extraction": (0.6, ()),
    "prefix-tuning": (0.5, ("prefix_tuning.length=4", "prefix_tuning.layers=2", "fine_tuning.learning_rate=1e-2")),
    "partial": (0.7, ("partial.store=one-bit", "fine_tuning.learning_rate=3e-5")),
    "full": (0.8, ("full.store=float16", "fine_tuning.learning_rate=3e-5")),
}
SHARES = (0.0, 0.4, 0.6, 0.8, 0.96, 0.99)
FILE_LIMIT = 60_000  # more than the database and the adapter need, less than a checkpoint


def line_for(rows: Path, *options: str, strategy: str = "lora") -> list[str]:
    chosen: tuple[str, ...] = SETTINGS
    if strategy != "lora":
        chosen = (*(text for text in SETTINGS if not text.startswith("lora.")), *OTHERS[strategy][1])
    settings = [word for setting in chosen for word in ("--set", setting)]
    return ["train", str(rows), "--base", "tiny", "--name", "acme/topics", "--strategy", strategy, *settings, *options]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory, furnished: Path, rows_file: Path) -> dict[str, Outcome]:
    """Every process of this module, run by one: a whole run, runs that are killed or stopped, and their resumption."""
    folder = tmp_path_factory.mktemp("kills")
    jobs: dict[str, Job] = {}

    def add(name: str, home: str, *options: str, **what: float | int) -> None:
        if not (folder / home).exists():
            shutil.copytree(furnished, folder / home)
        jobs[name] = Job(str(folder / home), line_for(rows_file, *options), **what)  # type: ignore[arg-type]

    add("whole", "whole", "--json")
    for share in SHARES:
        add(f"killed {share}", f"home {share}", "--json", kill_at=share)
    add("stopped", "stopped", "--json", kill_at=0.5, kill_with=signal.SIGTERM)
    add("killed first", "twice", kill_at=0.45)
    add("killed again", "twice", "--resume", kill_at=0.3)
    for share in SHARES:
        add(f"resumed {share}", f"home {share}", "--resume", "--json")
    add("stopped resumed", "stopped", "--resume", "--json")
    add("twice resumed", "twice", "--resume", "--json")
    add("full", "full", file_limit=FILE_LIMIT)
    return outcomes_of(jobs) | {"": Outcome(0, str(folder), "", 0)}


def outcomes_of(jobs: dict[str, Job]) -> dict[str, Outcome]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_DTYPE", "float32")
        patch.setenv("OMP_NUM_THREADS", "1")
        return dict(zip(jobs, run_jobs(list(jobs.values())), strict=True))


def digest_of(outcome: Outcome) -> str:
    assert outcome.code == 0, outcome.err
    digest: str = json.loads(outcome.out)["digest"]
    return digest


def look_at(home: Path, graft: Graft, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """All versions with their digests, of a registry that is sound and has no unfinished run."""
    monkeypatch.setenv("GRAFT_HOME", str(home))
    assert graft(["fsck", "--json"]).json["errors"] == 0
    assert not (home / "runs" / "acme" / "topics").exists()
    return [(version["reference"], version["digest"]) for version in graft(["list", "--json"]).json]


def test_what_is_compared_is_what_was_trained_and_not_where_it_started(outcomes: dict[str, Outcome]) -> None:
    assert json.loads(outcomes["whole"].out)["manifest"]["decision"] == ""


@pytest.mark.parametrize("share", SHARES)
def test_a_killed_run_is_resumed_to_the_same_bits(
    outcomes: dict[str, Outcome], graft: Graft, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    assert outcomes[f"killed {share}"].code == -signal.SIGKILL
    expected = digest_of(outcomes["whole"])
    assert digest_of(outcomes[f"resumed {share}"]) == expected
    home = Path(outcomes[""].out) / f"home {share}"
    assert look_at(home, graft, monkeypatch) == [("acme/topics@2", expected)]


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory, furnished: Path, rows_file: Path) -> dict[str, Outcome]:
    """Of every other strategy a whole run, one that is killed, and its resumption, in homes named like them."""
    folder = tmp_path_factory.mktemp("others")
    jobs: dict[str, Job] = {}
    for strategy, (share, _) in OTHERS.items():
        whole, killed = (str(shutil.copytree(furnished, folder / f"{what} {strategy}")) for what in ("whole", "killed"))
        line = line_for(rows_file, "--json", strategy=strategy)
        jobs[f"whole {strategy}"] = Job(whole, line)
        jobs[f"killed {strategy}"] = Job(killed, line, kill_at=share)
        jobs[f"resumed {strategy}"] = Job(killed, [*line, "--resume"])
    return outcomes_of(jobs) | {"": Outcome(0, str(folder), "", 0)}


@pytest.mark.parametrize("strategy", OTHERS)
def test_a_killed_run_of_any_strategy_is_resumed_to_the_same_bits(
    others: dict[str, Outcome], graft: Graft, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    assert {*OTHERS, "lora"} == set(STRATEGIES)
    whole = others[f"whole {strategy}"]
    manifest, expected = json.loads(whole.out)["manifest"], digest_of(whole)
    assert "no epoch was better" not in manifest["decision"]
    assert bool(manifest["tensors"]) == (strategy != "feature-extraction")
    assert others[f"killed {strategy}"].code == -signal.SIGKILL
    assert digest_of(others[f"resumed {strategy}"]) == expected
    home = Path(others[""].out) / f"killed {strategy}"
    assert look_at(home, graft, monkeypatch) == [("acme/topics@2", expected)]


def test_a_run_that_is_killed_twice(
    outcomes: dict[str, Outcome], graft: Graft, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert outcomes["killed first"].code == outcomes["killed again"].code == -signal.SIGKILL
    assert digest_of(outcomes["twice resumed"]) == digest_of(outcomes["whole"])
    assert len(look_at(Path(outcomes[""].out) / "twice", graft, monkeypatch)) == 1


def test_sigterm_ends_with_a_code_of_its_own_and_says_how_to_go_on(
    outcomes: dict[str, Outcome], graft: Graft, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = outcomes["stopped"]
    assert (stopped.code, stopped.out) == (75, "")
    assert stopped.error["code"] == "training-interrupted"
    assert "training was asked to stop and did after step " in stopped.error["message"]
    assert stopped.error["remedy"] == "Give the same command with --resume to go on from there."
    assert digest_of(outcomes["stopped resumed"]) == digest_of(outcomes["whole"])
    assert len(look_at(Path(outcomes[""].out) / "stopped", graft, monkeypatch)) == 1


def test_a_full_disk_costs_checkpoints_and_not_the_run(
    outcomes: dict[str, Outcome], graft: Graft, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = outcomes["full"]
    assert full.code == 0, full.err
    assert full.err.count("warning: no checkpoint could be written at step 1:") == 1
    assert "Training goes on; what was kept before is still there. Free space on that disk" in full.err
    versions = look_at(Path(outcomes[""].out) / "full", graft, monkeypatch)
    assert versions == [("acme/topics@2", digest_of(outcomes["whole"]))]


@pytest.fixture(scope="module")
def descendants(tmp_path_factory: pytest.TempPathFactory, furnished: Path, rows_file: Path) -> dict[str, Outcome]:
    """A child of an adapter, and a full fine-tune that goes on with a penalty: whole, killed and resumed."""
    folder = tmp_path_factory.mktemp("descendants")
    homes = {what: str(shutil.copytree(furnished, folder / what)) for what in ("whole", "killed")}
    contrary = folder / "contrary.csv"
    turned = {"animal": "legal", "legal": "animal"}
    lines = [f"{text},{turned.get(label, label)}" for text, label in [("text", "label"), *draw_rows(80, seed=7)]]
    contrary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    tuning = ("fine_tuning.epochs=1", "fine_tuning.checkpoint_steps=1")
    few = ("--set", "forgetting.fisher_rows=8")
    common = [*[word for setting in tuning for word in ("--set", setting)], "--json"]
    rate = ("--set", "fine_tuning.learning_rate=5e-4")
    kept = [
        "train",
        str(rows_file),
        "--base",
        "tiny",
        "--name",
        "acme/full",
        "--strategy",
        "full",
        *common,
        *rate,
        *few,
    ]
    child = ["train", str(contrary), "--parent", "acme/topics", "--name", "acme/child", "--strategy", "lora", *common]
    again = ["train", str(contrary), "--continue", "acme/full", "--set", "forgetting.protection=ewc", *common, *rate]
    jobs = {f"first {what}": Job(home, [*kept, "--set", "forgetting.keep_fisher=true"]) for what, home in homes.items()}
    for name, line in {"child": child, "again": [*again, *few]}.items():
        jobs[f"{name} whole"] = Job(homes["whole"], line)
        jobs[f"{name} killed"] = Job(homes["killed"], line, kill_at=0.6)
        jobs[f"{name} resumed"] = Job(homes["killed"], [*line, "--resume"])
    return outcomes_of(jobs)


@pytest.mark.parametrize("name", ["child", "again"])
def test_a_killed_descendant_is_resumed_to_the_same_bits(descendants: dict[str, Outcome], name: str) -> None:
    assert descendants["first whole"].code == 0, descendants["first whole"].err
    assert descendants[f"{name} killed"].code == -signal.SIGKILL
    assert digest_of(descendants[f"{name} resumed"]) == digest_of(descendants[f"{name} whole"])
