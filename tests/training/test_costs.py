"""Estimates of a run, against values worked out by hand from a plan and rates; and rates measured on a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.backbones.backbone import Backbone
from graftwork.data.dataset import Dataset
from graftwork.evaluation.estimates import Correction, Stops
from graftwork.prices import Hardware
from graftwork.training.config import TrainingConfig
from graftwork.training.costs import SCRATCH_RATES, Rows, estimate_run, scratch_seconds
from graftwork.training.plan import Memory, Plan, Work, make_plan
from graftwork.training.rates import Rates, keep_rates, kept_rates, machine_name, measure_rates
from graftwork.training.rows import prepare_rows

MEMORY = Memory(100, 10, 10, 20, 10, anchor=0, activations=50, cache=0, peak=1_000)
WORK = Work(tokens=800, learned=600, epochs=2, whole=10.0, tail=4.0, step=12.0, signs=True, searched=0)
PLAN = Plan(
    strategy="full",
    parameters=1000,
    trainable=500,
    head=33,
    width=10,
    layers=2,
    split=1,
    rows=80,
    tokens=800,
    longest=20,
    steps=4,
    batch_size=32,
    memory=MEMORY,
    work=WORK,
)
RATES = Rates(
    machine="m",
    base="b",
    dtype="float32",
    tokens=10,
    measured_at=datetime(2026, 1, 1, tzinfo=UTC),
    load=3.0,
    process_bytes=5_000,
    reading=1_000.0,
    probe=0.001,
    judging=0.01,
    judging_fixed=0.5,
    steps={"full, 32 rows": 500.0},
)
ROWS = Rows(count=80, classes=3, test=20, test_tokens=200, check_seconds=0.25)


def test_operations_by_part() -> None:
    assert (WORK.reading, WORK.trunk, WORK.epoch, WORK.evaluation) == (8_000, 4_800, 7_200, 800)
    assert (WORK.scaling, WORK.comparing) == (7_200, 600 * 4 + 3 * 800)
    assert PLAN.flops == 8_000 + 4_800 + 2 * 7_200 + 3 * 800 + 7_200 + 4_800


def test_a_run_here_by_hand() -> None:
    estimate = estimate_run("full", PLAN, RATES, ROWS)
    assert estimate.stages == pytest.approx(
        {
            "load": 3.0,
            "check": 0.25,
            "features": 8.0,
            "probe": 0.001 * 80 * 10 * 3,
            # trunk, three validations, answers before and after the scales; two epochs and the scales
            "strategy": (4_800 + 3 * 800 + 4_800) / 1_000 + (2 * 7_200 + 7_200) / 500,
            "judge": 2 * 200 * 10 / 1_000 + 2 * (0.5 + 0.01 * 20),
        }
    )
    assert estimate.seconds == pytest.approx(sum(estimate.stages.values()))
    assert estimate.peak_bytes == 6_150  # full fine-tuning holds 15 % more than what is alive
    assert estimate_run("full", PLAN, RATES, ROWS, tight=True).peak_bytes == 6_000
    corrected = estimate.corrected(Correction(seconds=1.5, bytes=1.2, runs=4))
    assert corrected.seconds == pytest.approx(1.5 * estimate.seconds)
    assert (corrected.corrected_bytes, corrected.corrected_by) == (7_380, 4)
    assert estimate.corrected(None) is estimate


def test_lora_imports_peft() -> None:
    rates = RATES.model_copy(update={"peft": 1.5, "steps": {"full, 32 rows": 500.0, "lora, 32 rows": 500.0}})
    lora, full = (
        estimate_run(name, replace(PLAN, strategy=name), rates, ROWS).stages["strategy"] for name in ("lora", "full")
    )
    assert lora == pytest.approx(full + 1.5)


def test_a_run_elsewhere_by_hand() -> None:
    fast = Hardware(title="x", peak_tflops=1e-8, utilisation=0.5, step_ms=100)  # 5,000 operations a second reached
    stages = estimate_run("full", PLAN, RATES, ROWS, fast).stages
    assert stages["features"] == pytest.approx(8_000 / 5_000)
    # Four steps and two of the scales take at least 0.1 s each, and their 21,600 operations 4.32 s.
    assert stages["strategy"] == pytest.approx(12_000 / 5_000 + 21_600 / 5_000)
    assert stages["probe"] == estimate_run("full", PLAN, RATES, ROWS).stages["probe"]
    floor = fast.model_copy(update={"peak_tflops": 1e6})
    stages = estimate_run("full", PLAN, RATES, ROWS, floor).stages
    assert stages["strategy"] == pytest.approx(3 * 0.1 + 6 * 0.1)


def test_the_head_alone_makes_no_steps_and_is_judged_once() -> None:
    head = replace(PLAN, strategy="feature-extraction", work=replace(WORK, step=0.0, signs=False), steps=0)
    stages = estimate_run("feature-extraction", head, RATES, ROWS).stages
    assert stages["strategy"] == 0
    assert stages["judge"] == pytest.approx(200 * 10 / 1_000 + 0.7)


def test_a_run_that_stops_early_by_hand() -> None:
    stopped = PLAN.stopped_after(1)
    assert (stopped.steps, stopped.flops) == (2, PLAN.flops - 7_200 - 800)
    assert PLAN.stopped_after(None) is PLAN
    nothing = PLAN.stopped_after(1, kept=False)  # the start was better: no scales are trained, none are compared
    assert nothing.flops == stopped.flops - 7_200 - 4_800
    assert estimate_run("full", nothing, RATES, ROWS).stages["judge"] == pytest.approx(200 * 10 / 1_000 + 0.7)


def test_what_is_expected_lies_between_the_earliest_stop_and_all_epochs() -> None:
    whole = estimate_run("full", PLAN, RATES, ROWS)
    found = estimate_run("full", PLAN, RATES, ROWS, stops=Stops(fewest=0.5, expected=0.75, runs=0))
    assert whole.range == (whole.seconds, whole.seconds)
    epoch = 7_200 / 500 + 800 / 1_000
    assert found.seconds == pytest.approx(whole.seconds - epoch / 2)
    judged_once = 200 * 10 / 1_000 + 0.7
    assert found.range == pytest.approx(
        (whole.seconds - epoch - 7_200 / 500 - 4_800 / 1_000 - judged_once, whole.seconds)
    )
    assert found.corrected(Correction(seconds=2.0, bytes=1.0, runs=1)).range == pytest.approx(
        [2 * s for s in found.range]
    )


def test_from_scratch_by_hand() -> None:
    plan = replace(PLAN, work=replace(WORK, tail=10.0))
    seconds = scratch_seconds(plan, RATES, ROWS, None, epochs=5)
    assert seconds == pytest.approx(SCRATCH_RATES * (6 * 200 * 10 / 1_000 + 5 * 7_200 / 500))


@given(st.integers(1, 50), st.integers(1, 50), st.floats(1.0, 4.0))
def test_more_epochs_more_rows_and_slower_machines_take_longer(epochs: int, more: int, slower: float) -> None:
    plan = replace(PLAN, work=replace(WORK, epochs=epochs), steps=2 * epochs)
    longer = replace(plan, work=replace(WORK, epochs=epochs + more), steps=2 * (epochs + more))
    seconds = estimate_run("full", plan, RATES, ROWS).seconds
    assert estimate_run("full", longer, RATES, ROWS).seconds > seconds
    assert estimate_run("full", plan, RATES, replace(ROWS, test_tokens=200 + more)).seconds > seconds
    weak = RATES.model_copy(update={"reading": 1_000 / slower, "steps": {"full, 32 rows": 500 / slower}})
    assert estimate_run("full", plan, weak, ROWS).seconds >= seconds


def rows(count: int) -> Dataset:
    drawn = np.random.default_rng(0)
    words = ["apple", "river", "stone", "cloud", "paper", "light", "green", "house"]
    texts = [" ".join([*drawn.choice(words, size=6), str(place)]) for place in range(count)]
    return Dataset.from_lists(texts, ["abc"[place % 3] for place in range(count)])


def test_rates_are_measured_and_kept(backbone_of: Callable[..., Backbone], tmp_path: Path) -> None:
    backbone = backbone_of("bert")
    config = TrainingConfig.parse(assignments=["fine_tuning.batch_size=8"])
    prepared = prepare_rows(rows(60), None, config)
    lengths = [len(ids) for ids in backbone.encode(prepared.rows.texts)]
    plans = {
        name: make_plan(
            backbone.model.config,
            config.model_copy(update={"strategy": name}),
            strategy=name,
            lengths=lengths,
            classes=3,
            dtype=backbone.dtype,
        )
        for name in ("feature-extraction", "lora", "full")
    }
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    found = measure_rates(backbone, prepared, plans, config, load=1.5)
    assert set(found.steps) == {"lora, 8 rows", "full, 8 rows"}
    assert min(found.reading, found.probe, *found.steps.values()) > 0
    assert found.covers(plans)
    assert not found.covers({"auto": replace(plans["lora"], batch_size=4)})  # its steps are others
    assert (found.machine, found.load) == (machine_name(), 1.5)
    for name, value in backbone.model.state_dict().items():
        assert value.equal(before[name])

    def kept(**other: object) -> Rates | None:
        wanted = {"base": found.base, "dtype": "float32", "tokens": found.tokens} | other
        return kept_rates(tmp_path / "rates", **wanted)  # type: ignore[arg-type]

    assert kept() is None
    keep_rates(tmp_path / "rates", found)
    assert kept() == found
    assert kept(tokens=4 * found.tokens) is None
    assert kept(base="another") is None
    next((tmp_path / "rates").iterdir()).write_text("{")
    assert kept() is None
    only = found.model_copy(update={"steps": {"lora, 8 rows": 1.0}, "load": None})
    assert only.and_of(found).steps == {**found.steps, "lora, 8 rows": 1.0}
    assert only.and_of(found).load == 1.5
