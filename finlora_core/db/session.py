"""One engine a process, and short transactions on it."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from select import POLLIN, poll
from threading import Lock
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

ENGINE = {"pool_size": 5, "max_overflow": 40, "pool_use_lifo": True, "hide_parameters": True}
"""Room for each of the 40 threads that FastAPI runs endpoints on, for the event loop's and for
the duties beside them; most are closed after use. The last one used is used next: SQLite's forgets
its pages when another one writes, and PostgreSQL's has its plans.
What a statement was given may be a secret: an exception, which gets logged, does not show it."""

PATIENCE = {"connect_timeout": 5, "keepalives_idle": 10, "tcp_user_timeout": 30_000}
"""For a server that has gone without a word: seconds, seconds, milliseconds."""

BUSY_SECONDS = 30.0
"""How long a writer waits for SQLite's other writers."""

_READ_ONLY = "finlora_read_only"

_CLOCK = text("SELECT clock_timestamp()")
"""Not `now()`: that is the start of the transaction, and a claim may have waited since."""


class Database:
    """Owns the engine; hands out transactions and the database's clock."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._line = Lock() if engine.dialect.name == "sqlite" else None
        self._writer = sessionmaker(engine, expire_on_commit=False)
        self._reading = _for_reading(engine)
        self._reader = sessionmaker(self._reading, expire_on_commit=False)

    @classmethod
    def connect(cls, url: URL) -> "Database":
        """SQLite with a write-ahead log that survives power loss, or PostgreSQL."""
        if url.get_backend_name() == "sqlite":
            return cls(_sqlite(url))
        return cls(_postgresql(url))

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Commit on the way out, roll back on an exception. Keep it short."""
        with self._in_line(), self._writer.begin() as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """For reading; takes no write lock."""
        with self._reader.begin() as session:
            yield session

    def looking(self) -> Connection:
        """The same without a session, for what reads columns: it takes 40 µs less."""
        return self._reading.connect()

    @contextmanager
    def _in_line(self) -> Iterator[None]:
        """SQLite has one writer, and whoever finds it busy sleeps, longer each time. Our own
        threads wait here instead, where the next is woken at once."""
        taken = self._line is not None and self._line.acquire(timeout=BUSY_SECONDS)
        try:
            yield
        finally:
            if self._line is not None and taken:
                self._line.release()

    @property
    def is_in_process(self) -> bool:
        """Whether a statement is a call, and not a message to a server."""
        return self.engine.dialect.name == "sqlite"

    def close(self) -> None:
        self.engine.dispose()


def now(session: Session) -> datetime:
    """The database's clock: one clock for all workers, however wrong their own are.

    SQLite runs on the caller's host, so there it is the host's clock.
    """
    if session.get_bind().dialect.name == "sqlite":
        return datetime.now(UTC)
    # by the connection: a session, made for objects, takes twice the time
    clock: datetime = session.connection().execute(_CLOCK).scalar_one()
    return clock.astimezone(UTC)


def _for_reading(engine: Engine) -> Engine:
    """On PostgreSQL each statement sees what is committed by then, in a transaction or out of
    it: to begin and end one would be two more messages for nothing."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(**{_READ_ONLY: True})
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def _postgresql(url: URL) -> Engine:
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"), connect_args=PATIENCE, **ENGINE
    )

    def refuse_ended(connection: Any, entry: ConnectionPoolEntry, taken: object) -> None:
        """The pool makes another one then."""
        try:
            if _says_something(connection):
                engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as ended:
            raise DisconnectionError from ended

    event.listen(engine, "checkout", refuse_ended)
    return engine


def _says_something(connection: Any) -> bool:
    """A server that ends a connection, or its host, says so, and nothing else to one that is
    idle: to look takes microseconds, where asking each time would be a message more."""
    ear = poll()
    ear.register(connection.fileno(), POLLIN)
    return bool(ear.poll(0))


def _sqlite(url: URL) -> Engine:
    Path(url.database or "").parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS}, **ENGINE)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, entry: ConnectionPoolEntry) -> None:
    # the driver would begin transactions by itself, late: _begin_sqlite does it instead
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    """IMMEDIATE takes the write lock first: no upgrade later that another writer can refuse."""
    options: dict[str, Any] = dict(connection.get_execution_options())
    connection.exec_driver_sql("BEGIN" if options.get(_READ_ONLY) else "BEGIN IMMEDIATE")
