"""A step computes what is still wanted, and charges what it computed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from graftwork.backbones.backbone import Backbone
from graftwork.errors import DeadlineExceeded
from graftwork.serving.engine import Engine, EngineLimits
from graftwork.serving.keys import AdapterKey
from tests.serving.builders import TEXTS, Made, Spec

Ask = Callable[..., Any]


@pytest.fixture
def adapter(bert: Backbone, made: Callable[..., Made]) -> Made:
    found: Made = made(bert, Spec(seed=21))
    return found


@pytest.fixture
def engine(bert: Backbone, adapter: Made) -> Iterator[Engine]:
    engine = Engine(lambda _: bert, {adapter.digest: adapter.artifact}.__getitem__, EngineLimits())
    engine.embed("warm", bert.fingerprint, ["what loads the base"])
    while not engine.step(60):
        pass
    warm = engine.classify("warm", bert.fingerprint, adapter.digest, ["what loads the adapter"])
    while not warm.done():
        engine.step(60)
    yield engine
    engine.close(drain=False)


def between_choice_and_computing(engine: Engine, monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    take = engine._scheduler.take

    def taken(timeout: float) -> Any:
        tasks = take(timeout)
        do()
        return tasks

    monkeypatch.setattr(engine._scheduler, "take", taken)


def costs_of(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What the rows of each tenant's last request cost, once a step has told it."""
    told: dict[str, int] = {}
    computed = engine._scheduler.computed

    def record(tasks: Any, costs: Any, *rest: Any) -> None:
        told.update({task.pending.tenant: cost for task, cost in zip(tasks, costs, strict=True)})
        computed(tasks, costs, *rest)

    monkeypatch.setattr(engine._scheduler, "computed", record)
    return told


def test_what_is_cancelled_after_it_was_chosen_is_neither_computed_nor_charged(
    engine: Engine, adapter: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = adapter.backbone.fingerprint
    gone = engine.classify("gone", base, adapter.digest, [TEXTS[0]])
    kept = engine.classify("kept", base, adapter.digest, [TEXTS[0]])
    before, costs = engine.stats().rows, costs_of(engine, monkeypatch)
    between_choice_and_computing(engine, monkeypatch, gone.cancel)
    assert engine.step()
    assert kept.done()
    assert engine.stats().rows == before + 1
    assert costs == {"gone": 0, "kept": len(adapter.backbone.encode([TEXTS[0]])[0])}


def test_what_expires_after_it_was_chosen_is_told_so_and_not_computed(
    engine: Engine, adapter: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = adapter.backbone.fingerprint
    late = engine.classify("late", base, adapter.digest, [TEXTS[0]], deadline=time.monotonic() + 60)
    before = engine.stats().rows
    now = time.monotonic
    between_choice_and_computing(
        engine, monkeypatch, lambda: monkeypatch.setattr(time, "monotonic", lambda: now() + 60)
    )
    assert engine.step()
    assert isinstance(late.exception(timeout=0), DeadlineExceeded)
    assert engine.stats().rows == before


def test_one_text_and_adapter_in_a_batch_is_paid_for_once(
    engine: Engine, adapter: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = costs_of(engine, monkeypatch)
    for tenant in ("first", "again"):
        engine.classify(tenant, adapter.backbone.fingerprint, adapter.digest, [TEXTS[0]])
    assert engine.step()
    assert costs == {"first": len(adapter.backbone.encode([TEXTS[0]])[0]), "again": 1}


def test_who_is_first_pays_for_loading_an_adapter(
    engine: Engine, adapter: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = engine._adapters.get(AdapterKey(adapter.digest, adapter.backbone.fingerprint))
    assert loaded is not None
    assert loaded.unpaid == []  # who warmed it has paid
    loaded.unpaid.append(100.0)
    paid: dict[str, float] = {}
    computed = engine._scheduler.computed
    monkeypatch.setattr(engine._scheduler, "computed", lambda *told: (paid.update(told[3]), computed(*told)))
    for tenant in ("first", "second"):
        engine.classify(tenant, adapter.backbone.fingerprint, adapter.digest, [f"a text of the {tenant}"])
        assert engine.step()
    assert paid["first"] >= 100.0 > paid["second"]
