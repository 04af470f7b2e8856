"""Lookups are remembered, and never a moment too long."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from graftwork.api.lookups import Lookups
from graftwork.api.memory import Memory
from graftwork.errors import NotFound, StorageError
from graftwork.registry.database import Database
from graftwork.registry.scope import Scope
from tests.api.fakes import FakeServices


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'registry.db'}"


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database.open(url)
    yield database
    database.close()


def test_a_second_look_is_saved_until_anybody_writes(url: str, database: Database) -> None:
    memory = Memory(database)
    looks: list[int] = []

    def look() -> int:
        looks.append(0)
        return len(looks)

    assert [memory.get("a", look), memory.get("a", look), memory.get("b", look)] == [1, 1, 2]
    other = Database.open(url)  # as another process would
    with other.write():
        assert memory.get("a", look) == 1  # not committed yet
    assert [memory.get("a", look), memory.get("a", look), memory.get("b", look)] == [3, 3, 4]
    other.close()


def test_what_was_found_while_somebody_wrote_is_not_kept_for_later(database: Database) -> None:
    memory = Memory(database)

    def slow() -> str:
        with database.write():
            pass
        return "perhaps old"

    assert memory.get("a", slow) == "perhaps old"
    assert memory.get("a", lambda: "new") == "new"


def test_a_slow_look_does_not_overwrite_what_a_later_one_found(database: Database) -> None:
    memory = Memory(database)
    looking, go_on = threading.Event(), threading.Event()

    def slow() -> str:
        looking.set()
        assert go_on.wait(10)
        return "old"

    thread = threading.Thread(target=lambda: memory.get("a", slow))
    thread.start()
    assert looking.wait(10)
    with database.write():
        pass
    assert memory.get("a", lambda: "new") == "new"
    go_on.set()
    thread.join(10)
    assert memory.get("a", lambda: "newest") == "new"


def test_nothing_is_kept_of_a_failure(database: Database) -> None:
    memory = Memory(database)

    def fail() -> str:
        raise NotFound("no such thing")

    with pytest.raises(NotFound):
        memory.get("a", fail)
    assert memory.get("a", lambda: "there now") == "there now"


def test_it_is_bounded_and_keeps_what_is_asked_for(database: Database) -> None:
    memory = Memory(database, size=2)
    for key in ("a", "b", "a", "c"):
        memory.get(key, lambda: "first")
    assert [memory.get(key, lambda: "second") for key in ("a", "c", "b")] == ["first", "first", "second"]


def test_what_is_known_is_trusted_for_the_stated_time_and_no_longer(url: str, database: Database) -> None:
    now = [100.0]
    memory = Memory(database, trusted=1.0, clock=lambda: now[0])
    assert memory.known(["a"])[0] == [None]
    memory.get("a", lambda: "old")
    with database.write():
        pass
    now[0] += 0.5
    assert memory.known(["a"]) == (["old"], False)
    now[0] += 0.4
    assert memory.known(["a"]) == (["old"], True)
    now[0] += 0.2
    assert memory.known(["a"])[0] == [None]
    memory.refresh()
    assert memory.known(["a"])[0] == [None]  # somebody wrote
    memory.get("a", lambda: "new")
    now[0] += 5
    memory.refresh()
    assert memory.known(["a"])[0] == ["new"]  # nobody did


def test_a_reading_that_was_overtaken_does_not_bring_back_the_past(database: Database) -> None:
    now = [100.0]
    memory = Memory(database, trusted=10.0, clock=lambda: now[0])

    def slow() -> str:
        now[0] += 1
        with database.write():
            pass
        assert memory.get("a", lambda: "new") == "new"
        return "old"

    assert memory.get("a", slow) == "old"
    assert memory.known(["a"])[0] == ["new"]


def test_one_reading_serves_all_who_ask_at_once(database: Database) -> None:
    reads: list[float] = []

    class Counting(FakeServices):
        def __init__(self) -> None:
            super().__init__()
            self.database = SimpleNamespace(read=self.read)

        def read(self, *, patience: float) -> Any:
            reads.append(0)
            return database.read(patience=patience)

    async def ask() -> None:
        lookups = Lookups(Counting(), 4, trusted=60.0)  # type: ignore[arg-type]
        await lookups.adapter("acme/news", Scope.everything())
        before = len(reads)
        await asyncio.gather(*(lookups.adapter("acme/news", Scope.everything()) for _ in range(100)))
        assert len(reads) == before
        lookups._memory._read = float("-inf")  # as when the time has passed
        found = await asyncio.gather(*(lookups.adapter("acme/news", Scope.everything()) for _ in range(100)))
        assert len(reads) == before + 1
        assert {version.reference for version in found} == {"acme/news@1"}

    asyncio.run(ask())


@pytest.fixture
def lockers() -> Iterator[list[sqlite3.Connection]]:
    connections: list[sqlite3.Connection] = []
    yield connections
    for connection in connections:
        connection.close()


def test_while_the_database_is_locked_names_are_answered_as_last_seen_for_a_while(
    url: str, database: Database, lockers: list[sqlite3.Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graftwork.api.memory._PATIENCE_SECONDS", 0.01)
    # Whoever waited for the lock as writers do would be ended by the timeout of this test.
    monkeypatch.setattr("graftwork.registry.database.BUSY_SECONDS", 3_600.0)
    now = 0.0
    memory = Memory(database, grace=100.0, clock=lambda: now)
    assert memory.get("a", lambda: "seen") == "seen"
    database.close()  # a connection that has the file open already would see through the lock
    lockers.append(locker := sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None))
    locker.execute("PRAGMA locking_mode = EXCLUSIVE")
    locker.execute("BEGIN EXCLUSIVE")
    now = 99.0
    assert memory.get("a", lambda: "not asked") == "seen"
    with pytest.raises(StorageError, match="locked"):
        memory.get("b", lambda: "not asked")
    now = 101.0
    with pytest.raises(StorageError, match="locked"):
        memory.get("a", lambda: "not asked")
    locker.close()
    now = 103.0
    assert memory.get("b", lambda: "there again") == "there again"
    assert memory.get("a", lambda: "not asked") == "seen"  # nobody has written meanwhile
    now = 203.0
    with database.write():
        pass
    assert memory.get("a", lambda: "new") == "new"


def test_a_database_that_is_gone_is_asked_once_a_second(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    memory = Memory(database, clock=lambda: now)
    memory.get("a", lambda: "seen")
    asked: list[float] = []

    def gone(*, patience: float) -> None:
        asked.append(now)
        raise StorageError("the database is gone")

    monkeypatch.setattr(database, "read", gone)
    for moment in (0.0, 0.5, 0.9, 1.5, 1.6, 3.0):
        now = moment
        assert memory.get("a", lambda: "not asked") == "seen"
    assert asked == [0.0, 1.5, 3.0]
