"""While an attempt works: keep its lease, pass on what it writes, learn what somebody wishes.

It beats on a thread and a connection of its own, so that a long download or a long copy does
not cost the lease. It stops nothing itself: `supervise` does, which alone holds the process.
"""

import logging
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from finlora_core.db.session import Database, now
from finlora_core.errors import LeaseLost
from finlora_core.redact import redact
from finlora_core.runs import journal, lifecycle
from finlora_core.runs.journal import Progress
from finlora_core.runs.lifecycle import Lease
from finlora_core.runs.outcome import Wish
from finlora_core.settings import Settings
from finlora_core.training.files import AttemptFiles
from worker.tail import Tail, read_json, read_json_lines

logger = logging.getLogger(__name__)

MAX_LOG_BYTES = 16 * 1024 * 1024
"""Of one attempt's log, kept in the database; the file on the worker holds all of it."""


def boottime() -> float:
    """Seconds, counted also while the machine sleeps: a lease runs out meanwhile too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass
class Heartbeat:
    """A context: beats while it is open, and once more when it closes."""

    database: Database
    lease: Lease
    files: AttemptFiles
    settings: Settings
    wish: Wish | None = None
    """What somebody wants of the run, as of the last beat."""
    checkpoint_step: int | None = None
    """Of the newest checkpoint that was kept; the next beat reports it."""
    lease_lost: bool = False
    _found_more: bool = True
    _last_beat: float = field(default_factory=boottime)
    _closing: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._metrics = Tail(self.files.metrics)
        self._log = Tail(self.files.log)
        self._thread = threading.Thread(target=self._loop, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()
        # a trainer that ends with many lines at once takes several beats to store
        while self._try_beat() and self._found_more:
            pass

    @property
    def is_lost(self) -> bool:
        """The run is no longer ours, or we have not been able to make sure for too long."""
        return self.lease_lost or boottime() - self._last_beat > self.settings.fence_seconds

    def beat(self) -> None:
        """One short transaction: renew, append what is new, learn of a wish."""
        started = boottime()
        final = self._closing.is_set()
        points = read_json_lines(self._metrics.read(final=final))
        log = self._log.read(final=final) if self._log.position < MAX_LOG_BYTES else ""
        progress = Progress.parse(read_json(self.files.progress))
        with self.database.transaction() as session:
            wish = lifecycle.renew(
                session,
                self.lease,
                now=now(session),
                ttl=timedelta(seconds=self.settings.lease_seconds),
                progress=progress.model_dump() if progress else None,
                checkpoint_step=self.checkpoint_step,
            )
            journal.append_metrics(session, self.lease.run_id, self.lease.attempt, points)
            journal.append_log(session, self.lease.run_id, redact(log))
        self._metrics.commit()
        self._log.commit()
        self._found_more = bool(points or log)
        self._last_beat = started
        self.wish = wish

    def _loop(self) -> None:
        while not self._closing.wait(self.settings.heartbeat_seconds):
            self._try_beat()

    def _try_beat(self) -> bool:
        """Whether the beat went through. One that did not leaves it to the fence."""
        try:
            self.beat()
            return True
        except LeaseLost:
            self.lease_lost = True
        except (SQLAlchemyError, OSError) as error:
            logger.warning("no heartbeat: %s", error)
        except Exception:  # whatever it was: without this thread the run would be lost
            logger.exception("no heartbeat")
        return False
