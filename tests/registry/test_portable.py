from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql

from graftwork.errors import NotFound
from graftwork.registry.base_rows import BaseModel
from graftwork.registry.fsck import fsck
from graftwork.registry.garbage import collect_garbage
from graftwork.registry.lineage import lineage
from graftwork.registry.scope import Scope
from tests.registry.builders import Registry, make_artifact


def use_everything(registry: Registry, base: BaseModel) -> None:
    catalog, bases, acme = registry.catalog, registry.bases, Scope.of("acme")
    bases.fetch(base)
    bases.list(search="x", domain="nlp", architecture="encoder-only", max_parameters=1)
    for reference in ("tiny/1/base", "tiny/1", base.fingerprint[:8], "nothing"):
        try:
            bases.resolve(reference)
        except NotFound:
            assert reference == "nothing"
    parent = catalog.publish("acme/news", make_artifact(base), idempotency_key="a", expected_latest=0)
    catalog.publish("acme/news", make_artifact(base), idempotency_key="a")
    catalog.publish("acme/child", make_artifact(base, seed=1, parent=parent.digest))
    for reference in ("acme/news", "acme/news@9", "acme/news:x", "acme/nws"):
        try:
            catalog.resolve(reference, acme)
        except NotFound:
            assert reference != "acme/news"
    catalog.list(acme, tenant="acme", base="tiny", search="x")
    catalog.versions("acme/news")
    catalog.read(parent)
    catalog.set_alias("acme/news", "production", 1)
    catalog.publish("acme/news", make_artifact(base, seed=2))
    catalog.set_alias("acme/news", "production", 2)
    catalog.alias_history("acme/news", "production")
    catalog.remove_alias("acme/news", "production")
    lineage(registry.database, catalog, "acme/child")
    catalog.remove("acme/child@1")
    fsck(registry.database, registry.blobs)
    collect_garbage(registry.database, registry.blobs, grace=timedelta())
    registry.add_base("gone", seed=1)
    bases.remove("gone")


@pytest.fixture
def transactions(registry: Registry, base: BaseModel) -> list[list[Any]]:
    """Every statement that the registry runs, by transaction."""
    statements: list[list[Any]] = [[]]
    texts: list[str] = []

    def begin(connection: sa.Connection) -> None:
        statements.append([])

    def note(connection: sa.Connection, statement: Any, *_: object) -> None:
        statements[-1].append(statement)

    def note_text(connection: sa.Connection, cursor: object, text: str, *_: object) -> None:
        texts.append(text)

    listeners: dict[str, Callable[..., None]] = {
        "begin": begin,
        "before_execute": note,
        "before_cursor_execute": note_text,
    }
    for name, listener in listeners.items():
        event.listen(sa.Engine, name, listener)
    try:
        use_everything(registry, base)
    finally:
        for name, listener in listeners.items():
            event.remove(sa.Engine, name, listener)
    by_hand = {text for text in texts if not re.match(r"(SELECT|INSERT|UPDATE|DELETE)\b", text)}
    assert by_hand == {"BEGIN", "BEGIN IMMEDIATE"}
    return statements


def test_every_statement_compiles_for_postgresql(transactions: list[list[Any]]) -> None:
    dialect = postgresql.dialect()
    compiled = {str(statement.compile(dialect=dialect)) for statements in transactions for statement in statements}
    assert len(compiled) > 40
    assert {text.split()[0] for text in compiled} == {"SELECT", "INSERT", "UPDATE", "DELETE"}


def test_whoever_writes_takes_the_lock_before_anything_else(transactions: list[list[Any]]) -> None:
    writing = [statements for statements in transactions if any(statement.is_dml for statement in statements)]
    assert len(writing) > 8
    for statements in writing:
        assert statements[0].is_update
        assert statements[0].table.name == "registry_state"
