"""What makes lost messages and lost workers harmless. Runs in the API and in every worker.

All its statements are guarded, so any number of processes may do this at once.
"""

import logging
import threading
from datetime import timedelta
from itertools import takewhile

from sqlalchemy.exc import SQLAlchemyError

from finlora_core.db.session import Database, now
from finlora_core.queue import RunQueue
from finlora_core.runs import lifecycle
from finlora_core.settings import Settings

logger = logging.getLogger(__name__)


def reconcile(database: Database, queue: RunQueue, settings: Settings) -> None:
    """Take runs back from silent workers; offer queued runs that nobody was told of."""
    with database.transaction() as session:
        lifecycle.expire_leases(session, now=now(session), max_crashes=settings.max_crashes)
    with database.reading() as session:
        before = now(session) - timedelta(seconds=settings.reoffer_seconds)
        waiting = lifecycle.unoffered(session, before=before)
    offered = list(takewhile(queue.offer, waiting))
    if offered:
        with database.transaction() as session:
            lifecycle.mark_offered(session, offered, now=now(session))


class Reconciler:
    """Calls `reconcile` every `settings.reconcile_seconds` on a thread of its own."""

    def __init__(self, database: Database, queue: RunQueue, settings: Settings) -> None:
        self._database = database
        self._queue = queue
        self._settings = settings
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="reconciler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _loop(self) -> None:
        while True:
            try:
                reconcile(self._database, self._queue, self._settings)
            except SQLAlchemyError as error:
                logger.warning("cannot reconcile now: %s", type(error).__name__)
            except Exception:  # whatever it was: a dead reconciler would strand runs silently
                logger.exception("cannot reconcile now")
            if self._stop.wait(self._settings.reconcile_seconds):
                return
