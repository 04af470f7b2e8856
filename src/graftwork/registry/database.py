"""The registry's database: SQLite by default, PostgreSQL by URL."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc

from graftwork.errors import DependencyMissing, GraftworkError, SettingsInvalid, StorageError, StorageFull
from graftwork.registry import schema
from graftwork.registry.tables import registry_state

BUSY_SECONDS = 30.0
"""How long a statement waits for another process's transaction before it gives up."""

_WRITES = "graftwork_writes"
# How long a connection that is being opened waits: its first statements read the file, and wait for locks like any.
_opening_patience: ContextVar[float | None] = ContextVar("opening_patience", default=None)


class Database:
    """Connections to the registry's tables.

    Readers see one moment of the database for as long as they read, and never wait for writers. There is one
    writer at a time, across processes and hosts: `write()` updates the one row of `registry_state` first, which
    holds everybody else's first statement back until the transaction ends. Whatever a writer finds true inside
    `write()` therefore stays true until it has committed.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> database = Database.open(f"sqlite:///{folder.name}/registry.db")
        >>> with database.read() as connection:
        ...     connection.scalar(sa.select(registry_state.c.id))
        1
        >>> database.close(); folder.cleanup()
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self.name = engine.url.render_as_string(hide_password=True)

    @classmethod
    def open(cls, url: str) -> Database:
        """Open a database, create it when it is new, migrate it when it is old.

        Args:
            url: SQLAlchemy's URL, such as `sqlite:////var/lib/graftwork/registry.db`.

        Raises:
            SettingsInvalid: if the URL is malformed or names a database that cannot be used.
            DependencyMissing: if the database's driver is not installed.
            StorageError: if the database cannot be opened or was written by a newer version.
        """
        database = cls(_engine(url))
        try:
            database._prepare()
        except BaseException:
            database.close()
            raise
        return database

    @contextmanager
    def read(self, *, patience: float | None = None) -> Iterator[sa.Connection]:
        """A connection that sees one consistent moment.

        Args:
            patience: seconds to wait for an SQLite file that another process has locked; `BUSY_SECONDS` by default.

        Raises:
            StorageError: if the database does not answer.
        """
        with self._told():
            if patience is not None and self._is_sqlite:
                with self._impatient(patience) as connection:
                    yield connection
                return
            options = {} if self._is_sqlite else {"isolation_level": "REPEATABLE READ"}
            with self._engine.connect().execution_options(**options) as connection:
                yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that holds the write lock; it commits on leaving and rolls back on any exception.

        Raises:
            StorageError: if the database does not answer, or another writer held the lock for too long.
            StorageFull: if there is no space left.
        """
        with self._told(), self._writer() as connection:
            connection.execute(sa.update(registry_state).values(writes=registry_state.c.writes + 1))
            yield connection

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @property
    def _is_sqlite(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    def _prepare(self) -> None:
        with self._told():
            if self._is_sqlite:
                with self._engine.connect() as connection:
                    _enter_wal(connection)
            with self._engine.connect() as connection:
                if schema.revision(connection) == schema.HEAD:
                    return
            with self._writer() as connection:
                schema.upgrade(connection)

    @contextmanager
    def _writer(self) -> Iterator[sa.Connection]:
        with self._engine.connect().execution_options(**{_WRITES: True}) as connection, connection.begin():
            yield connection

    @contextmanager
    def _impatient(self, seconds: float) -> Iterator[sa.Connection]:
        """A connection that waits for other processes' locks for so long, whether it is open already or not."""
        usual = _opening_patience.set(seconds)
        try:
            connection = self._engine.connect()
        finally:
            _opening_patience.reset(usual)
        with connection, _busy_timeout(connection, seconds):
            yield connection

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn the driver's errors into the project's."""
        try:
            yield
        except GraftworkError:
            raise
        except (exc.SQLAlchemyError, sqlite3.Error) as error:
            raise _storage_error(self.name, error) from error


def _engine(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
        options = _options(parsed)
        engine = sa.create_engine(parsed, json_serializer=partial(json.dumps, ensure_ascii=False), **options)
    except ModuleNotFoundError as error:
        raise DependencyMissing(
            f"the database's driver {error.name!r} is not installed",
            remedy=f"Install it (pip install {error.name}) or choose another driver in GRAFT_DATABASE_URL.",
        ) from error
    except (exc.SQLAlchemyError, ValueError) as error:
        raise SettingsInvalid(
            f"the database URL cannot be used: {error}",
            remedy="Set GRAFT_DATABASE_URL to something like sqlite:////path/registry.db "
            "or postgresql+psycopg://user@host/name.",
        ) from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _options(url: sa.URL) -> dict[str, Any]:
    backend = url.get_backend_name()
    if backend == "postgresql":
        return {"pool_pre_ping": True}
    if backend != "sqlite":
        raise SettingsInvalid(
            f"{backend!r} databases are not supported", remedy="Use SQLite (the default) or PostgreSQL."
        )
    if not url.database or url.database == ":memory:" or "mode=memory" in url.database:
        raise SettingsInvalid(
            "a database in memory would be lost, and seen by nobody else",
            remedy="Name a file: sqlite:////path/registry.db.",
        )
    if not url.database.startswith("file:"):
        folder = Path(url.database).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"the database's folder {folder} cannot be created: {error.strerror}",
                remedy="Make the place writable, or choose another by GRAFT_HOME or GRAFT_DATABASE_URL.",
            ) from error
    return {"connect_args": {"timeout": BUSY_SECONDS}}


def _configure_sqlite(connection: Any, _record: Any) -> None:
    # The driver would begin transactions lazily, after the first reads; `_begin_sqlite` begins them instead.
    connection.isolation_level = None
    patience = _opening_patience.get()
    seconds = BUSY_SECONDS if patience is None else patience
    for pragma in (f"busy_timeout = {int(seconds * 1000)}", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


@contextmanager
def _busy_timeout(connection: sa.Connection, seconds: float) -> Iterator[None]:
    """Wait for other processes' locks for so long on this connection."""
    driver: Any = connection.connection.dbapi_connection
    driver.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")
    try:
        yield
    finally:
        driver.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")


def _begin_sqlite(connection: sa.Connection) -> None:
    # A writer that had begun as a reader could be refused at its first write, whatever the timeout.
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _enter_wal(connection: sa.Connection) -> None:
    """Switch a new file to write-ahead logging, which lasts.

    SQLite does not wait by itself when two processes do this to the same new file at once, hence the loop.
    """
    driver: Any = connection.connection.dbapi_connection
    give_up = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            if driver.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                driver.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.01)


def _storage_error(name: str, error: Exception) -> StorageError:
    """The error that tells a person what happened to the database, and what to do."""
    original = error.orig if isinstance(error, exc.DBAPIError) else error
    code = getattr(original, "sqlite_errorcode", 0) & 0xFF
    state = getattr(original, "sqlstate", None) or ""
    if code == sqlite3.SQLITE_FULL or state == "53100":
        return StorageFull(f"the database {name} has no space left", remedy="Free space on its disk, then try again.")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or state in ("55P03", "40P01", "40001"):
        return StorageError(
            f"the database {name} is locked by another process",
            remedy="Wait until the other command has finished, then try again.",
            retry_after=1.0,
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StorageError(
            f"the database {name} is damaged or is not a database",
            remedy="Restore it from a backup, or name another by GRAFT_DATABASE_URL.",
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return StorageError(
            f"the database {name} cannot be opened for writing",
            remedy="Check that the file and its folder exist and are yours to write.",
        )
    if code == sqlite3.SQLITE_IOERR:
        return StorageError(
            f"the disk did not take what the database {name} wrote, or did not give it back",
            remedy="Check the disk's space, its quota and its health, then try again.",
        )
    return StorageError(
        f"the database {name} failed: {original}".strip(), remedy="Check that it runs and can be reached."
    )
