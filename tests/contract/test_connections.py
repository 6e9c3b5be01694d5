"""Connections to PostgreSQL that wait in the pool: who has ended is found before it is used."""

from collections.abc import Iterator
from contextlib import contextmanager
from select import POLLIN, poll
from typing import Any

import pytest
from sqlalchemy import URL, text

from finlora_core.db.session import Database

PATIENCE_MS = 30_000

PID = text("SELECT pg_backend_pid()")

END = text("SELECT pg_terminate_backend(:pid, :patience)")
"""True once it has ended."""


@pytest.fixture
def served(postgresql: URL) -> Iterator[Database]:
    with connected(postgresql) as database:
        yield database


@pytest.fixture
def other(postgresql: URL) -> Iterator[Database]:
    """Another client of the same server's."""
    with connected(postgresql) as database:
        yield database


@contextmanager
def connected(url: URL) -> Iterator[Database]:
    database = Database.connect(url)
    yield database
    database.close()


def pid_of_one(database: Database) -> int:
    with database.looking() as connection:
        pid: int = connection.scalar(PID)
        return pid


def end(database: Database, pid: int) -> None:
    with database.reading() as session:
        assert session.scalar(END, {"pid": pid, "patience": PATIENCE_MS})


def test_one_that_the_server_has_ended_is_replaced(served: Database, other: Database) -> None:
    pid = pid_of_one(served)
    end(other, pid)
    assert pid_of_one(served) != pid


def test_all_that_it_has_ended_are_replaced(served: Database, other: Database) -> None:
    with served.looking() as one, served.looking() as two:
        pids = {each.scalar(PID) for each in (one, two)}
    for pid in pids:
        end(other, pid)
    with served.transaction() as one_session, served.transaction() as another:
        both = one_session, another
        assert not pids & {each.scalar(PID) for each in both}


def test_one_that_is_there_is_asked_nothing(
    served: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = pid_of_one(served)

    def refuse(connection: object) -> bool:
        raise AssertionError("a message to the server")

    monkeypatch.setattr(served.engine.dialect, "do_ping", refuse)
    assert pid_of_one(served) == pid


def test_one_that_was_told_something_else_is_kept(served: Database, other: Database) -> None:
    with served.looking() as connection:
        connection.execute(text("LISTEN news"))
        driver: Any = connection.connection.driver_connection
    pid = pid_of_one(served)
    with other.transaction() as session:
        session.execute(text("NOTIFY news"))
    ear = poll()
    ear.register(driver.fileno(), POLLIN)
    assert ear.poll(PATIENCE_MS)
    assert pid_of_one(served) == pid
