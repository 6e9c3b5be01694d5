"""A look at the database that is over at once: a few rows, found by their keys."""

from collections.abc import Callable
from typing import TypeVar

from fastapi.concurrency import run_in_threadpool
from sqlalchemy.orm import Session

from finlora_core.db.session import Database

Seen = TypeVar("Seen")


async def glance(database: Database, look: Callable[[Session], Seen]) -> Seen:
    """What `look` makes of it.

    In SQLite that is a call of a fraction of a millisecond, and to hand it to a thread takes as
    long again; more when threads compete for Python's lock. A server is waited for in a thread.
    """
    if database.is_in_process:
        return _look(database, look)
    return await run_in_threadpool(_look, database, look)


def _look(database: Database, look: Callable[[Session], Seen]) -> Seen:
    with database.reading() as session:
        return look(session)
