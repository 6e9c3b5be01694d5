"""How routes that are asked for most look at the database, and change it.

On PostgreSQL each look is waited for in a thread. SQLite does not wait, it computes, with Python
around it: threads make that no faster, and compete for Python's lock at each row. It has one
writer at a time, too: what others wait for need not be threads.
"""

from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from sqlalchemy.orm import Session

from finlora_core.db.session import Database

PAGES_AT_ONCE = 2
"""That are read from SQLite at the same time: a long one holds up nobody's short one."""

THREADS = 4
"""That wait for PostgreSQL in each of the ways below: more would compete for Python's lock."""

Seen = TypeVar("Seen")
Done = TypeVar("Done")


class Looks:
    def __init__(self, database: Database) -> None:
        self._database = database
        is_near = database.is_in_process
        self._glances = CapacityLimiter(THREADS)
        self._readers = CapacityLimiter(PAGES_AT_ONCE if is_near else THREADS)
        self._writers = CapacityLimiter(1 if is_near else THREADS)

    async def glance(self, look: Callable[[Session], Seen]) -> Seen:
        """A few rows, found by their keys: in SQLite a call that takes less than a thread does."""
        if self._database.is_in_process:
            return self._look(look)
        return await run_sync(self._look, look, limiter=self._glances)

    async def browse(self, look: Callable[[Session], Seen]) -> Seen:
        """A page of rows."""
        return await run_sync(self._look, look, limiter=self._readers)

    async def change(self, work: Callable[[], Done]) -> Done:
        """What is done in a transaction or two, and nothing slow."""
        return await run_sync(work, limiter=self._writers)

    def _look(self, look: Callable[[Session], Seen]) -> Seen:
        with self._database.reading() as session:
            return look(session)
