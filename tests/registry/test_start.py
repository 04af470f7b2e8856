"""What a server asks the registry when it starts costs the same however many adapters are registered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import event

from graftwork.registry.base_rows import BaseModel
from graftwork.registry.database import Database
from tests.registry.builders import Registry, make_artifact


def steps_of(database: Database, call: Callable[[], object]) -> int:
    """Steps that SQLite takes for a call."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    def watch(connection: Any, *_: object) -> None:
        connection.set_progress_handler(count, 1)

    event.listen(database._engine, "checkout", watch)
    try:
        call()
    finally:
        event.remove(database._engine, "checkout", watch)
    assert steps > 0
    return steps


def test_a_start_takes_the_same_steps_with_few_adapters_and_many(registry: Registry, base: BaseModel) -> None:
    def example() -> str | None:
        return registry.catalog.example()

    def in_use() -> list[str]:
        return registry.bases.in_use(base.metadata.domain)

    assert (example(), in_use()) == (None, [])
    steps = set()
    for count in (2, 8, 32):
        for number in range(count):
            registry.catalog.publish(f"acme/a{count}x{number}", make_artifact(base, seed=number))
        assert in_use() == [base.reference]
        assert (example() or "").startswith("acme/a")
        steps.add((steps_of(registry.database, example), steps_of(registry.database, in_use)))
    assert len(steps) == 1
    assert registry.bases.in_use("speech") == []


def test_a_name_whose_versions_are_gone_is_no_example(registry: Registry, base: BaseModel) -> None:
    registry.catalog.publish("acme/news", make_artifact(base))
    registry.catalog.remove("acme/news@1")
    assert registry.catalog.example() is None
    assert registry.bases.in_use(base.metadata.domain) == []
