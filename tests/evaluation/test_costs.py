"""Estimates beside what was measured, hosting and leaderboards, against values worked out by hand."""

from __future__ import annotations

import doctest
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import graftwork.evaluation.estimates
from graftwork.evaluation.estimates import EstimatedRun, Stops, correction_for, estimate_errors, stops_of
from graftwork.evaluation.hosting import Instance, Load, break_even, dedicated, packed, shared
from graftwork.evaluation.leaderboard import Entry, leaderboards
from graftwork.evaluation.results import Interval

GB = 10**9
LOAD = Load(tenants=100, rate=20.0, single=0.01, batched=0.002, process_bytes=600_000_000, adapter_bytes=1_000_000)
INSTANCE = Instance(memory_bytes=8 * GB, monthly=100.0)


def run(seconds: float, *, strategy: str = "lora", machine: str = "m", peak: int = 100) -> EstimatedRun:
    return EstimatedRun(strategy, machine, 10.0, 5.0, seconds, 100, peak)


def test_examples_in_docstrings():
    assert doctest.testmod(graftwork.evaluation.estimates).failed == 0
    assert doctest.testmod(graftwork.evaluation.estimates).attempted > 0


def test_the_median_of_earlier_runs_corrects_the_next():
    runs = [run(15.0, peak=120), run(12.0, peak=110), run(90.0, peak=130)]
    others = [run(1.0, strategy="full"), run(1.0, machine="another")]
    found = correction_for([*runs, *others], strategy="lora", machine="m")
    assert found is not None
    assert (found.seconds, found.bytes, found.runs) == (3.0, 1.2, 3)  # of the five seconds that it ran
    assert correction_for(others, strategy="lora", machine="m") is None


def test_errors_by_strategy():
    full, lora = estimate_errors([run(12.0), run(9.0), run(2.0, peak=200), run(10.0, strategy="full")])
    assert (full.strategy, full.runs, full.seconds_ratio, full.seconds_within) == ("full", 1, 1.0, 1.0)
    assert (lora.runs, lora.seconds_ratio, lora.bytes_ratio) == (3, 0.9, 1.0)
    assert lora.seconds_within == lora.bytes_within == pytest.approx(2 / 3, abs=1e-4)
    assert (lora.work_ratio, lora.work_within) == (1.8, 0.0)
    assert lora.seconds_worst == 0.2  # five times too much is worse than a fifth too little


def test_when_runs_stop_is_learned_from_those_that_did():
    runs = [replace(run(1.0, machine=str(place)), stopped=1.0) for place in range(4)]
    found = stops_of(
        [*runs, run(1.0), replace(run(1.0, strategy="full"), stopped=0.25)], strategy="lora", epochs=4, patience=1
    )
    assert (found.fewest, found.runs) == (0.25, 4)
    assert found.expected == pytest.approx((2 * 0.625 + 4) / 6)
    assert stops_of(runs, strategy="lora", epochs=2, patience=9) == Stops(1.0, 1.0, 4)


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"cost": None, "total_seconds": 3.0, "peak_bytes": 5},
        {"cost": {"strategy": "lora", "machine": "m", "seconds": 1.0}, "total_seconds": 3.0, "peak_bytes": 5},
        {"cost": {"strategy": "lora", "machine": "m", "seconds": 0.0, "peak_bytes": 5}, "total_seconds": 3.0},
        {"cost": {"strategy": "lora", "machine": "m", "seconds": "x", "peak_bytes": 5}, "total_seconds": 1},
    ],
)
def test_a_record_that_tells_no_estimate_is_passed_over(record):
    assert EstimatedRun.of_record(record) is None


def test_hosting_by_hand():
    each = dedicated(LOAD, INSTANCE)
    assert (each.processes, each.instances, each.monthly) == (100, 100, 10_000.0)
    assert each.memory_bytes == 100 * 601_000_000
    assert each.utilisation == pytest.approx(20 * 0.01 / 100)
    tight = packed(LOAD, INSTANCE)
    assert (tight.processes, tight.instances, tight.monthly) == (100, 10, 1_000.0)  # 7.2 GB hold 11 processes
    assert tight.utilisation == pytest.approx(20 * 0.01 / 10)
    one = shared(LOAD, INSTANCE)
    assert (one.processes, one.instances, one.monthly) == (1, 1, 100.0)
    assert one.memory_bytes == 600_000_000 + 100 * 1_000_000
    assert one.utilisation == pytest.approx(0.04)


def test_many_texts_and_many_adapters_take_more_engines():
    busy = replace(LOAD, rate=1000.0)  # two seconds of work a second, at most 60 % of each instance
    assert shared(busy, INSTANCE).instances == 4
    crowded = replace(LOAD, tenants=20_000)  # 20 GB of adapters, 6.6 GB beside a process
    assert shared(crowded, INSTANCE).instances == 4
    assert shared(LOAD, Instance(8 * GB, None)).monthly is None


def test_break_even_by_hand():
    assert break_even(LOAD, INSTANCE, pack=False) == 2
    assert break_even(LOAD, INSTANCE, pack=True) == 12  # eleven processes fit on one instance
    heavy = replace(LOAD, batched=0.01, tenants=1, rate=1.0)
    assert break_even(heavy, Instance(10**15, 100.0), pack=True) is None


loads = st.builds(
    Load,
    tenants=st.integers(1, 5000),
    rate=st.floats(0, 2000),
    single=st.floats(0.005, 0.05),
    batched=st.floats(0.0005, 0.005),
    process_bytes=st.integers(10**8, 10**9),
    adapter_bytes=st.integers(10**3, 10**7),
)


@given(loads, st.integers(1, 1000), st.floats(0, 1000))
def test_more_tenants_or_texts_never_take_fewer_instances(load, tenants, rate):
    more = replace(load, tenants=load.tenants + tenants)
    faster = replace(load, rate=load.rate + rate)
    for way in (dedicated, packed, shared):
        assert way(faster, INSTANCE).instances >= way(load, INSTANCE).instances
    for way in (packed, shared):
        assert way(more, INSTANCE).memory_bytes >= way(load, INSTANCE).memory_bytes
    assert shared(more, INSTANCE).instances >= shared(load, INSTANCE).instances
    assert shared(load, INSTANCE).utilisation <= INSTANCE.busy + 1e-9


@given(loads)
def test_the_break_even_is_the_first_number_of_tenants(load):
    found = break_even(load, INSTANCE, pack=True)
    each = load.rate / load.tenants
    for tenants in range(1, min(found or 40, 40)):
        now = replace(load, tenants=tenants, rate=each * tenants)
        assert shared(now, INSTANCE).instances >= packed(now, INSTANCE).instances


def entry(reference: str, right: int, *, rows: int = 200, size: int = 10, base: str = "b", digest: str = "d") -> Entry:
    share, half = right / rows, 1.96 * math.sqrt(0.25 / rows)
    accuracy = Interval.of(share, share - half, share + half)
    return Entry(reference, base, "lora", None, digest, rows, accuracy, size, 1.0, None)


def test_leaderboards_mark_what_is_not_told_apart():
    first, other = leaderboards(
        [entry("c", 100), entry("a", 150), entry("b", 148), entry("e", 150, size=5), entry("z", 1, digest="other")]
    )
    assert [(one.reference, one.place, one.told_apart) for one in first.entries] == [
        ("e", 1, False),
        ("a", 1, False),
        ("b", 3, False),
        ("c", 4, True),
    ]
    assert first.entries[3].behind.value == 0.25
    assert [one.reference for one in other.entries] == ["z"]
    assert [board.base for board in leaderboards([entry("x", 1, base="q"), entry("y", 1, base="p")])] == ["p", "q"]
