"""The API's end of the queue. It sends by task name, so it never imports the worker."""

from typing import Protocol

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from finlora_core.queue import CELERY_SETTINGS, WAKE, Backlog, BestEffortQueue, RunQueue

REFUSALS = (OperationalError, RedisError, OSError)
PING_SECONDS = 0.5


class WorkerQueue(RunQueue, Protocol):
    """The queue as the API needs it: offers, and a look at who listens."""

    @property
    def is_full(self) -> bool:
        """Whether an offer would be taken for made, without a word to the broker."""

    def count_workers(self) -> int | None:
        """Workers that answer; None when the broker itself does not."""


class CeleryQueue(BestEffortQueue):
    def __init__(self, broker_url: str) -> None:
        self._celery = Celery("finlora-api", broker=broker_url)
        self._celery.conf.update(CELERY_SETTINGS)
        self.backlog = Backlog(broker_url)
        super().__init__(self._send_wake, self.backlog, REFUSALS)

    def count_workers(self) -> int | None:
        try:
            self.backlog()
            return len(self._celery.control.ping(timeout=PING_SECONDS))
        except REFUSALS:
            return None

    def close(self) -> None:
        self._celery.close()
        self.backlog.close()

    def _send_wake(self, run_id: str) -> None:
        self._celery.send_task(WAKE, args=[run_id], retry=False, ignore_result=True)
