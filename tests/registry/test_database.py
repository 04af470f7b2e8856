from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from graftwork.errors import DependencyMissing, NotFound, SettingsInvalid, StorageError, StorageFull
from graftwork.registry import database as database_module
from graftwork.registry import schema
from graftwork.registry.database import Database
from graftwork.registry.tables import metadata, registry_state

MIGRATIONS = Path(schema.__file__).parent / "migrations"


def url(folder: Path) -> str:
    return f"sqlite:///{folder}/registry.db"


def writes(database: Database) -> int:
    with database.read() as connection:
        return int(connection.execute(sa.select(registry_state.c.writes)).scalar_one())


def test_a_new_database_is_durable_and_enforces_keys(tmp_path: Path) -> None:
    database = Database.open(url(tmp_path / "a b" / "c%20d"))
    with database.read() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    assert pragmas == ["wal", 2, 1, 30_000]
    database.close()


def test_migrations_lead_to_exactly_the_tables_of_the_code(tmp_path: Path) -> None:
    database = Database.open(url(tmp_path))
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    database.close()
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [schema.HEAD]


def test_every_table_compiles_for_postgresql() -> None:
    dialect = postgresql.dialect()
    for table in metadata.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=dialect))
        for index in table.indexes:
            assert "CREATE INDEX" in str(CreateIndex(index).compile(dialect=dialect))


def test_an_up_to_date_database_opens_quickly_and_without_alembic(tmp_path: Path) -> None:
    Database.open(url(tmp_path)).close()
    script = (
        "import sys, time\n"
        "from graftwork.registry.database import Database\n"
        "start = time.process_time()\n"
        f"Database.open({url(tmp_path)!r})\n"
        "print(time.process_time() - start, 'alembic' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seconds, alembic = done.stdout.split()
    assert alembic == "False"
    assert float(seconds) < 0.1


def test_processes_that_open_a_fresh_database_at_once_all_succeed(tmp_path: Path) -> None:
    script = (
        "import sys, alembic.command\n"
        "from graftwork.registry.database import Database\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        f"database = Database.open({url(tmp_path)!r})\n"
        "with database.write(): pass\n"
    )
    pipe = subprocess.PIPE
    children = [
        subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe, stderr=pipe) for _ in range(4)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"go\n")
        child.stdin.flush()
    errors = [child.communicate()[1].decode() for child in children]
    assert [child.returncode for child in children] == [0, 0, 0, 0], errors
    database = Database.open(url(tmp_path))
    assert writes(database) == 4
    database.close()


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    database = Database.open(url(tmp_path))

    def fail() -> None:
        with database.write() as connection:
            connection.execute(sa.update(registry_state).values(writes=99))
            raise NotFound("no")

    with pytest.raises(NotFound, match="no"):
        fail()
    assert writes(database) == 0
    database.close()


def test_a_reader_sees_one_moment_and_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    database = Database.open(url(tmp_path))
    with database.read() as reader:
        assert reader.execute(sa.select(registry_state.c.writes)).scalar_one() == 0
        with database.write():
            pass
        assert reader.execute(sa.select(registry_state.c.writes)).scalar_one() == 0
    assert writes(database) == 1
    database.close()


def test_a_lock_held_for_too_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.05)
    first, second = Database.open(url(tmp_path)), Database.open(url(tmp_path))
    with first.write(), pytest.raises(StorageError, match="locked by another process") as told, second.write():
        pass
    assert told.value.retry_after == 1.0
    assert writes(second) == 1
    first.close()
    second.close()


def test_a_full_disk_is_told_and_changes_nothing(tmp_path: Path) -> None:
    database = Database.open(url(tmp_path))

    def fill() -> None:
        with database.write() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
            connection.exec_driver_sql("CREATE TABLE big (x)")
            connection.exec_driver_sql("INSERT INTO big VALUES (zeroblob(10000000))")

    with pytest.raises(StorageFull, match="no space left"):
        fill()
    assert writes(database) == 0
    database.close()


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    Database.open(url(tmp_path)).close()
    raw = sqlite3.connect(tmp_path / "registry.db")
    raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.commit()
    raw.close()
    with pytest.raises(StorageError, match=r"has schema '9999'.*up to '0001'") as told:
        Database.open(url(tmp_path))
    assert "upgrade this installation" in told.value.remedy


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(StorageError, match="damaged or is not a database"):
        Database.open(url(tmp_path))


def test_a_folder_in_place_of_the_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "registry.db").mkdir()
    with pytest.raises(StorageError, match="cannot be opened"):
        Database.open(url(tmp_path))


def test_a_parent_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"folder .* cannot be created"):
        Database.open(url(tmp_path / "file" / "below"))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("nonsense", "cannot be used"),
        ("mysql://host/name", "'mysql' databases are not supported"),
        ("sqlite://", "would be lost"),
        ("sqlite:///:memory:", "would be lost"),
    ],
)
def test_urls_that_cannot_be_used_are_told(bad: str, message: str) -> None:
    with pytest.raises(SettingsInvalid, match=message):
        Database.open(bad)


def test_a_missing_driver_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pg8000", None)
    with pytest.raises(DependencyMissing, match="driver 'pg8000' is not installed"):
        Database.open("postgresql+pg8000://user:secret@host/name")


def test_a_password_is_never_shown() -> None:
    engine = SimpleNamespace(url=sa.make_url("postgresql+psycopg://user:secret@host/name"))
    assert Database(engine).name == "postgresql+psycopg://user:***@host/name"  # type: ignore[arg-type]
