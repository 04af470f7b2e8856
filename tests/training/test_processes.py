"""Several processes give what one gives; what goes wrong in one of them ends all."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from graftwork.errors import SettingsInvalid
from graftwork.training.config import FineTuningSettings
from graftwork.training.processes import Processes, launched
from graftwork.training.sharding import check_sharding
from tests.training import together

Saved = Callable[[str], Path]
Found = dict[str, Any]
# 33 rows in batches of 7, in parts of 2: shares and parts of all sizes, and a last batch of 5.
COMMON = (
    "fine_tuning.batch_size=7", "fine_tuning.micro_batch_size=2", "fine_tuning.epochs=1", "fine_tuning.patience=9",
    "fine_tuning.clip=0.5", "fine_tuning.evaluate_steps=3", "fine_tuning.label_smoothing=0.1",
)  # fmt: skip
# So low that the chaos of random networks does not make differences of rounding grow.
RATES = {"lora": 3e-5, "full": 3e-6, "partial": 3e-6, "prefix-tuning": 1e-3}
SHARDED = "fine_tuning.sharding=fsdp"
AGAIN = "fine_tuning.gradient_checkpointing=true"


def job(name: str, saved: Saved, strategy: str, *assignments: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "folder": str(saved("bert")),
        "strategy": strategy,
        "assignments": [*COMMON, *assignments],
        "learning_rate": RATES[strategy],
        **more,
    }


def jobs_of(saved: Saved, folder: Path) -> list[dict[str, Any]]:
    dropped = ("lora.dropout=0.3", "fine_tuning.checkpoint_steps=1")
    return [
        job("lora", saved, "lora"),
        job("full", saved, "full"),
        job("a single row at last", saved, "lora", "fine_tuning.batch_size=16"),
        job("a single row at last, sharded", saved, "lora", SHARDED, "fine_tuning.batch_size=16"),
        job("rate", saved, "lora", "fine_tuning.batch_size=17", "fine_tuning.micro_batch_size=17", find_rate=True),
        job("lora sharded", saved, "lora", SHARDED),
        job("full sharded", saved, "full", SHARDED),
        job("full sharded, layers run again", saved, "full", SHARDED, AGAIN),
        # The trunk is computed with each batch, through the sharded layers.
        job("partial sharded", saved, "partial", SHARDED, memory=0),
        job("prefix-tuning sharded", saved, "prefix-tuning", SHARDED),
        job("undisturbed", saved, "lora", *dropped),
        job("stopped", saved, "lora", *dropped, run=str(folder / "run"), stop_at=2),
        job("resumed", saved, "lora", *dropped, run=str(folder / "run"), resume=True),
        job("sharded and stopped", saved, "lora", SHARDED, run=str(folder / "sharded"), stop_at=2),
        job("diverging", saved, "lora", learning_rate=1e30),
        job("diverging sharded", saved, "lora", SHARDED, learning_rate=1e30),
        job("killed", saved, "lora", die_at=3),
    ]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, saved: Saved) -> tuple[dict[str, tuple[Found, ...]], Path]:
    """What came of every job in two processes, by name, and the folder they ran in; in the last one is killed.

    Started without torchrun, which would end the other one itself.
    """
    folder = tmp_path_factory.mktemp("together")
    jobs = jobs_of(saved, folder)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "tests.training.together", str(folder / "jobs.json"), str(folder)]
    first, second = (
        subprocess.Popen(
            line,
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    )
    told = first.communicate()[1] + second.communicate()[1]
    assert second.returncode == -signal.SIGKILL, told
    ranks = {job["name"]: (0,) if "die_at" in job else (0, 1) for job in jobs}
    return {
        name: tuple(torch.load(folder / f"{name}-{rank}.pt") for rank in who) for name, who in ranks.items()
    }, folder


@cache
def alone(folder: str, strategy: str, assignments: tuple[str, ...], find_rate: bool) -> Found:
    """What one process gives."""
    wanted = {"folder": folder, "strategy": strategy, "assignments": assignments, "find_rate": find_rate}
    return together.train({**wanted, "learning_rate": RATES[strategy]}, rank=0)


@pytest.mark.parametrize(
    "name",
    [
        "lora", "full", "a single row at last", "a single row at last, sharded", "rate", "lora sharded", "full sharded",
        "full sharded, layers run again", "partial sharded", "prefix-tuning sharded",
    ],
)  # fmt: skip
def test_two_processes_give_what_one_gives(both: Any, saved: Saved, name: str) -> None:
    (wanted,) = [job for job in jobs_of(saved, both[1]) if job["name"] == name]
    plain = tuple(text for text in wanted["assignments"] if text not in (SHARDED, AGAIN))
    expected = alone(wanted["folder"], wanted["strategy"], plain, "find_rate" in wanted)
    assert expected["best_step"] > 0
    for found in both[0][name]:
        assert found["error"] is None
        assert (found["best_step"], found["warnings"]) == (expected["best_step"], expected["warnings"])
        assert found.get("rate") == expected.get("rate")
        # A search for a rate ends where losses blow up, and with them every difference of rounding.
        calm = [place for place, loss in enumerate(expected["losses"]) if loss < 1.1 * expected["losses"][0]]
        assert len(found["losses"]) == len(expected["losses"])
        for place in calm:
            assert found["losses"][place] == pytest.approx(expected["losses"][place], abs=1e-5, rel=1e-5)
        torch.testing.assert_close(found["head"], expected["head"], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(found["bias"], expected["bias"], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(found["logits"], expected["logits"], atol=2e-5, rtol=1e-5)
        # Tensor by tensor: AdamW makes a step of a gradient that is hardly more than rounding, so that single elements
        # differ on one processor and not on another.
        for one, other in zip(found["moved"], expected["moved"], strict=True):
            assert (one - other).norm() <= 0.01 * (other.norm() + wanted["learning_rate"])
        assert found["base_is_the_same"]


@pytest.mark.parametrize("name", ["lora", "full", "lora sharded", "full sharded", "undisturbed"])
def test_all_processes_come_to_the_same_bits(both: Any, name: str) -> None:
    one, other = both[0][name]
    assert all(torch.equal(a, b) for a, b in zip(one["moved"], other["moved"], strict=True))
    assert torch.equal(one["head"], other["head"])
    assert one["losses"] == other["losses"]


@pytest.mark.parametrize("name", ["lora sharded", "full sharded"])
def test_each_process_holds_about_half_of_what_is_sharded(both: Any, name: str) -> None:
    for found in both[0][name]:
        assert 0.45 * found["whole"] < found["held"] < 0.56 * found["whole"]


def test_who_is_asked_to_stop_stops_all_and_the_run_is_resumed_to_the_same_bits(both: Any) -> None:
    results, folder = both
    for stopped in results["stopped"]:
        assert stopped["error"] == "training was asked to stop and did after step 3 of 5; nothing was published"
    undisturbed = results["undisturbed"][0]
    for resumed in results["resumed"]:
        assert resumed["notes"][0].startswith(("resumed at step 3 of 5", "there is nothing to resume"))
        assert all(torch.equal(a, b) for a, b in zip(resumed["moved"], undisturbed["moved"], strict=True))
        assert torch.equal(resumed["logits"], undisturbed["logits"])
    assert sorted(path.name for path in (folder / "run").iterdir()) == ["fine-tuning.safetensors", "run.json"]


def test_a_sharded_run_keeps_no_checkpoints(both: Any) -> None:
    results, folder = both
    assert "did after step 3 of 5" in results["sharded and stopped"][0]["error"]
    assert results["sharded and stopped"][0]["base_is_the_same"]
    assert not (folder / "sharded").exists()


@pytest.mark.parametrize("name", ["diverging", "diverging sharded"])
def test_all_diverge_together_and_end_with_the_best_before(both: Any, name: str) -> None:
    for found in both[0][name]:
        assert found["error"] is None
        assert "diverged" in found["warnings"]
        assert found["base_is_the_same"]
        assert all(value.isfinite().all() for value in found["moved"])


def test_when_a_process_is_killed_the_others_end_and_say_so(both: Any) -> None:
    (survivor,) = both[0]["killed"]
    told = "another process of this run ended, or did not answer within 10 minutes; nothing was published"
    assert survivor["error"] == told


def test_work_is_shared_out_evenly() -> None:
    for count in (1, 2, 3):
        shares = [Processes(rank, count).share(range(7)) for rank in range(count)]
        assert sorted(item for share in shares for item in share) == list(range(7))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        assert len(shares[0]) == max(map(len, shares))


def test_who_was_launched_as_what_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched() == Processes(0, 1)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert (launched(), launched().first) == (Processes(3, 4), False)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launched() == Processes(0, 1)


def test_sharding_needs_several_processes() -> None:
    check_sharding(FineTuningSettings(), resume=True)
    with pytest.raises(SettingsInvalid, match="there is one") as refused:
        check_sharding(FineTuningSettings(sharding="fsdp"))
    assert "torchrun" in refused.value.remedy
