"""Changes that wait for each other are committed together, and fail each for itself."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from threading import Event
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from api.looks import CHANGES_AT_ONCE, DEADLOCK, Looks
from finlora_core.db.session import Database
from finlora_core.idempotency import make_once

Work = Callable[[Session, datetime], int]


@pytest.fixture
def looks(database: Database) -> Looks:
    with database.transaction() as session:
        session.execute(text("CREATE TABLE notes (n INTEGER PRIMARY KEY)"))
    return Looks(database)


def noting(n: int) -> Work:
    def note(session: Session, at: datetime) -> int:
        session.execute(text("INSERT INTO notes VALUES (:n)"), {"n": n})
        return n

    return note


def notes(database: Database) -> list[int]:
    with database.reading() as session:
        return list(session.scalars(text("SELECT n FROM notes ORDER BY n")))


@contextmanager
def commits(database: Database) -> Iterator[list[int]]:
    """One entry for each."""
    seen: list[int] = []

    def count(connection: object) -> None:
        seen.append(1)

    event.listen(database.engine, "commit", count)
    yield seen
    event.remove(database.engine, "commit", count)


async def behind_a_slow_one(
    looks: Looks, *others: Coroutine[Any, Any, Any], leaving: int = 0
) -> Sequence[Any]:
    """What the others come to, who all wait when the first one is through; so many of them have
    left by then."""
    started, go_on = Event(), Event()

    def slow(session: Session, at: datetime) -> int:
        session.connection()
        started.set()
        assert go_on.wait(30)
        return 0

    first = asyncio.create_task(looks.change(lambda: slow))
    await asyncio.to_thread(started.wait, 30)
    tasks = [asyncio.create_task(other) for other in others]
    await asyncio.sleep(0)  # each of them comes to wait
    for task in tasks[:leaving]:
        task.cancel()
        await asyncio.wait([task])
    go_on.set()
    await first
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_what_has_waited_is_committed_together(looks: Looks, database: Database) -> None:
    work = [looks.change(partial(noting, n)) for n in range(5)]
    with commits(database) as seen:
        assert asyncio.run(behind_a_slow_one(looks, *work)) == [0, 1, 2, 3, 4]
    assert len(seen) == 2
    assert notes(database) == [0, 1, 2, 3, 4]


def test_a_transaction_takes_so_many_and_no_more(looks: Looks, database: Database) -> None:
    numbers = range(CHANGES_AT_ONCE + 1)
    work = [looks.change(partial(noting, n)) for n in numbers]
    with commits(database) as seen:
        assert asyncio.run(behind_a_slow_one(looks, *work)) == list(numbers)
    assert len(seen) == 3


def test_one_that_fails_takes_no_other_with_it(looks: Looks, database: Database) -> None:
    def refuse(session: Session, at: datetime) -> int:
        noting(2)(session, at)
        raise PermissionError("not this one")

    found = asyncio.run(
        behind_a_slow_one(
            looks,
            looks.change(lambda: noting(1)),
            looks.change(lambda: refuse),
            looks.change(lambda: noting(3)),
        )
    )
    assert found[::2] == [1, 3]
    assert isinstance(found[1], PermissionError)
    assert notes(database) == [1, 3]


class _Refusal(Exception):
    def __init__(self, sqlstate: str | None) -> None:
        self.sqlstate = sqlstate


@pytest.mark.parametrize(("sqlstate", "tries"), [(None, 1), (DEADLOCK, 2)])
def test_nobody_tries_alone_where_the_database_is_away(
    looks: Looks, database: Database, sqlstate: str | None, tries: int
) -> None:
    tried: list[int] = []

    def note(session: Session, at: datetime) -> int:
        tried.append(1)
        return noting(1)(session, at)

    def fail(session: Session, at: datetime) -> int:
        raise OperationalError("INSERT", {}, _Refusal(sqlstate))

    both = looks.change(lambda: note), looks.change(lambda: fail)
    noted, failed = asyncio.run(behind_a_slow_one(looks, *both))
    assert isinstance(failed, OperationalError)
    assert len(tried) == tries
    assert (notes(database) == [1]) == (noted == 1) == (sqlstate == DEADLOCK)


def test_what_cannot_be_prepared_is_no_part_of_it(looks: Looks, database: Database) -> None:
    def prepare() -> Work:
        raise FileNotFoundError("gone")

    found = asyncio.run(
        behind_a_slow_one(looks, looks.change(prepare), looks.change(lambda: noting(1)))
    )
    assert isinstance(found[0], FileNotFoundError)
    assert notes(database) == [1]


def test_whoever_has_gone_changes_nothing(looks: Looks, database: Database) -> None:
    others = looks.change(lambda: noting(1)), looks.change(lambda: noting(2))
    asyncio.run(behind_a_slow_one(looks, *others, leaving=1))
    assert notes(database) == [2]


def test_whoever_goes_while_it_is_made_holds_up_nobody(looks: Looks, database: Database) -> None:
    started, go_on = Event(), Event()

    def slow(session: Session, at: datetime) -> int:
        started.set()
        assert go_on.wait(30)
        return noting(1)(session, at)

    async def go() -> int:
        task = asyncio.create_task(looks.change(lambda: slow))
        await asyncio.to_thread(started.wait, 30)
        task.cancel()
        other = asyncio.create_task(looks.change(lambda: noting(2)))
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await other

    assert asyncio.run(go()) == 2
    assert notes(database) == [1, 2]


def test_changes_share_no_objects(looks: Looks) -> None:
    def once(session: Session, at: datetime) -> bool:
        made = make_once(session, "local", "key", "0" * 64, lambda: "run_1", now=at)
        return made.is_new

    both = looks.change(lambda: once), looks.change(lambda: once)
    assert asyncio.run(behind_a_slow_one(looks, *both)) == [True, False]
