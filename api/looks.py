"""How routes that are asked for most look at the database, and change it.

On PostgreSQL each look is waited for in a thread. SQLite does not wait, it computes, with Python
around it: threads make that no faster, and compete for Python's lock at each row. It has one
writer at a time, too, who waits for the disk at each commit: what others have waited to change
meanwhile is changed in one transaction.
"""

from asyncio import wrap_future
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from finlora_core.db.session import Database, now

THREADS = 2
"""That wait for PostgreSQL in each of the ways below: more would compete for Python's lock."""

CHANGES_AT_ONCE = 32
"""In one transaction: SQLite's other writers wait for its end."""

DEADLOCK = "40P01"
"""PostgreSQL's SQLSTATE: another process's group has waited for ours."""

Seen = TypeVar("Seen")
Done = TypeVar("Done")
Work = Callable[[Session, datetime], Done]


@dataclass(frozen=True, eq=False)
class _Change(Generic[Done]):
    prepare: Callable[[], Work[Done]]
    outcome: Future[Done] = field(default_factory=Future)


class Looks:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._glances = ThreadPoolExecutor(THREADS, "glance")
        self._readers = ThreadPoolExecutor(1 if database.is_in_process else THREADS, "browse")
        self._writer = ThreadPoolExecutor(1, "change")
        self._waiting: deque[_Change[Any]] = deque()

    async def glance(self, look: Callable[[Connection], Seen]) -> Seen:
        """A few rows, found by their keys: in SQLite a call that takes less than a thread does."""
        if self._database.is_in_process:
            return self._look(look)
        return await wrap_future(self._glances.submit(self._look, look))

    async def browse(self, look: Callable[[Connection], Seen]) -> Seen:
        """A page of rows."""
        return await wrap_future(self._readers.submit(self._look, look))

    async def change(self, prepare: Callable[[], Work[Done]]) -> Done:
        """Commit what `prepare` gives the work for, which comes before the transaction.

        The work is given the database's time. It is nothing slow, answers with no object of the
        session, and may be done anew: should it or another's fail in a transaction that they
        share, each gets its own.
        """
        change = _Change(prepare)
        self._waiting.append(change)
        self._writer.submit(self._make_waiting)  # unless somebody's has taken this along
        return await wrap_future(change.outcome)

    def _make_waiting(self) -> None:
        count = min(len(self._waiting), CHANGES_AT_ONCE)
        changes = [self._waiting.popleft() for _ in range(count)]
        self._make([one for one in changes if one.outcome.set_running_or_notify_cancel()])

    def _make(self, changes: Sequence[_Change[Any]]) -> None:
        works = []
        for change in changes:
            try:
                works.append((change.outcome, change.prepare()))
            except Exception as error:
                change.outcome.set_exception(error)
        if works:
            self._commit(works)

    def _commit(self, works: Sequence[tuple[Future[Any], Work[Any]]]) -> None:
        try:
            with self._database.transaction() as session:
                at = now(session)
                done = [_do(work, session, at) for _, work in works]
        except Exception as error:
            if len(works) > 1 and not _concerns_all(error):
                for one in works:
                    self._commit([one])
                return
            for outcome, _ in works:
                outcome.set_exception(error)
        else:
            for (outcome, _), value in zip(works, done, strict=True):
                outcome.set_result(value)

    def _look(self, look: Callable[[Connection], Seen]) -> Seen:
        with self._database.looking() as connection:
            return look(connection)


def _concerns_all(error: Exception) -> bool:
    """Whether the database is away, or somebody has locked it: each alone would wait as long."""
    if not isinstance(error, OperationalError | PoolTimeout):
        return False
    return getattr(getattr(error, "orig", None), "sqlstate", None) != DEADLOCK


def _do(work: Work[Done], session: Session, at: datetime) -> Done:
    done = work(session, at)
    session.flush()
    session.expunge_all()  # the next one looks for itself
    return done
