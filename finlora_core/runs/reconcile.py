"""What makes lost messages and lost workers harmless. Runs in the API and in every worker.

All its statements are guarded, so any number of processes may do this at once.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import takewhile

from sqlalchemy.exc import SQLAlchemyError

from finlora_core.db.session import Database, now
from finlora_core.queue import RunQueue
from finlora_core.runs import lifecycle
from finlora_core.runs.outcome import RetryPolicy
from finlora_core.settings import Settings

logger = logging.getLogger(__name__)


def reconcile(database: Database, queue: RunQueue, settings: Settings) -> None:
    """Take runs back from silent workers; offer queued runs that nobody was told of."""
    expire(database, settings)
    offer(database, queue, settings)


def expire(database: Database, settings: Settings) -> None:
    grace = timedelta(seconds=settings.lease_grace_seconds)
    with database.transaction() as session:
        policy = RetryPolicy.of(settings)
        lost = lifecycle.expire_leases(session, now=now(session), grace=grace, policy=policy)
    for run_id in lost:
        logger.warning("run %s: its worker has gone silent and has lost it", run_id)


def offer(database: Database, queue: RunQueue, settings: Settings) -> None:
    with database.reading() as session:
        at = now(session)
        before = at - timedelta(seconds=settings.reoffer_seconds)
        waiting = lifecycle.unoffered(session, now=at, before=before)
    offered = list(takewhile(queue.offer, waiting))
    if offered:
        with database.transaction() as session:
            lifecycle.mark_offered(session, offered, now=now(session))


class Reconciler:
    """Does its duties every `every` seconds, on a thread of its own."""

    def __init__(self, duties: Sequence[Callable[[], None]], *, every: float) -> None:
        self._duties = duties
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="reconciler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _loop(self) -> None:
        while True:
            for duty in self._duties:
                _try(duty)
            if self._stop.wait(self._every):
                return


def _try(duty: Callable[[], None]) -> None:
    try:
        duty()
    except SQLAlchemyError as error:
        logger.warning("cannot reconcile now: %s", type(error).__name__)
    except Exception:  # whatever it was: a dead reconciler would strand runs silently
        logger.exception("cannot reconcile now")
