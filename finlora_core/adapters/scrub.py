"""Read every stored version again from time to time, and say which one has decayed.

A duty of the reconciler, in every process that has one. A process takes one version at a time
by marking its row, the one not looked at for longest; while a mark is young, nobody takes
another. It reads for at most half a second each time it is called: neither the disk nor the
other duties wait for it.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from finlora_core.adapters.registry import get_any_adapter
from finlora_core.adapters.store import AdapterStore
from finlora_core.adapters.verify import Problem, verify_in_steps
from finlora_core.db.models import Adapter
from finlora_core.db.session import Database, now
from finlora_core.settings import Settings

logger = logging.getLogger(__name__)

SLICE = 0.5
"""Seconds of reading at a call."""

REST = 60.0
"""Seconds until the next look when no version is due."""

ABANDONED = timedelta(hours=1)
"""A mark this old is that of a process that has died."""

SHOWN_PROBLEMS = 5


class Scrubber:
    """Verifies each version once in `scrub_seconds`."""

    def __init__(self, database: Database, store: AdapterStore, settings: Settings) -> None:
        self._database = database
        self._store = store
        self._every = timedelta(seconds=settings.scrub_seconds)
        self._work: Iterator[None] | None = None
        self._next = 0.0

    def __call__(self) -> None:
        if self._work is None and time.monotonic() < self._next:
            return
        self._work = self._work or self._scrub_one()
        until = time.monotonic() + SLICE
        for _ in self._work:
            if time.monotonic() >= until:
                return  # and go on from here next time
        self._work = None

    def _scrub_one(self) -> Iterator[None]:
        """Takes a version and reads it, piece by piece, to its end."""
        if not self._store.is_there:  # a disk that is not mounted makes no version damaged
            self._next = time.monotonic() + REST
            return
        with self._database.transaction() as session:
            taken = take(session, now(session), self._every)
        if taken is None:
            self._next = time.monotonic() + REST
            return
        problems = []
        for found in verify_in_steps(self._store.folder(taken.id), taken.manifest_sha256):
            if isinstance(found, Problem):
                problems.append(found)
            yield
        with self._database.transaction() as session:
            record(session, taken.id, problems, now=now(session))


def take(session: Session, now: datetime, every: timedelta) -> Adapter | None:
    """Mark the version that is due for longest; None when none is, or one is being read."""
    abandoned = now - ABANDONED
    busy = select(Adapter.id).where(Adapter.verifying_since > abandoned)
    if session.scalars(busy.limit(1)).first() is not None:
        return None
    due = select(Adapter).where(Adapter.verified_at <= now - every)
    adapter = session.scalars(due.order_by(Adapter.verified_at, Adapter.id).limit(1)).first()
    if adapter is None:
        return None
    free = or_(Adapter.verifying_since.is_(None), Adapter.verifying_since <= abandoned)
    mark = update(Adapter).where(Adapter.id == adapter.id, free).values(verifying_since=now)
    marked = session.execute(mark.returning(Adapter.id)).first()  # nothing: another was quicker
    return adapter if marked is not None else None


def record(session: Session, id: str, problems: Sequence[Problem], *, now: datetime) -> Adapter:
    """Keep what a look at all of a version's files has shown. Raises `NotFound`."""
    adapter = get_any_adapter(session, id)
    adapter.verified_at, adapter.verifying_since = now, None
    was_damaged = adapter.damage is not None
    adapter.damage = _summary(problems) if problems else None
    if problems:
        where = f"{adapter.variant}/{adapter.name} version {adapter.version}"
        logger.error("adapter %s (%s) is damaged: %s", id, where, adapter.damage)
    elif was_damaged:
        logger.warning("adapter %s is sound again", id)
    session.flush()
    return adapter


def _summary(problems: Sequence[Problem]) -> str:
    more = len(problems) - SHOWN_PROBLEMS
    shown = [str(problem) for problem in problems[:SHOWN_PROBLEMS]]
    return "; ".join([*shown, f"and {more} more"] if more > 0 else shown)
