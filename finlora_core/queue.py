"""The queue as the core sees it: a way to say "look at the table"."""

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

logger = logging.getLogger(__name__)

WAKE = "finlora.wake"
"""The task's name on the wire. The API sends it, the worker answers to it."""

GPU_QUEUE = "gpu"
"""The Celery queue that training workers listen on."""

CELERY_SETTINGS: dict[str, Any] = {
    "task_default_queue": GPU_QUEUE,
    "task_ignore_result": True,
    "task_serializer": "json",
    "accept_content": ["json"],
    "task_publish_retry": False,
    # without these a broker that swallows packets blocks the sender for ever
    "broker_transport_options": {"socket_timeout": 5, "socket_connect_timeout": 2},
    "redis_socket_timeout": 5,
    "redis_socket_connect_timeout": 2,
}
"""What both ends of the queue agree on, in Celery's words. Durations are in seconds."""


ENOUGH_WAKES = 64
"""More messages than this never wait: one wakes one worker."""

STAYS_FULL = 0.05
"""Seconds that so many messages are taken to last, without asking again."""


class Backlog:
    """Messages that wait in the GPU queue, asked of Redis itself.

    Raises `RedisError` at once when the broker is away, where kombu would try for seconds.
    """

    def __init__(self, broker_url: str) -> None:
        self._redis = Redis.from_url(
            broker_url.replace("redis+socket://", "unix://"),  # kombu's word, and redis-py's
            socket_timeout=2,
            socket_connect_timeout=2,
            retry=Retry(NoBackoff(), 0),
        )

    def __call__(self) -> int:
        return int(self._redis.llen(GPU_QUEUE))  # type: ignore[arg-type]  # typed for asyncio too

    def close(self) -> None:
        self._redis.close()


class RunQueue(Protocol):
    def offer(self, run_id: str) -> bool:
        """Tell the workers that a run may be waiting; True when the broker took the message.

        Best effort: it never raises. The run is already safe in the database, and
        the reconciler offers it again when no worker picks it up.
        """


class BestEffortQueue:
    """`send` puts a message on the wire, `backlog` counts those that wait there.

    What they raise when they cannot is in `refusals`.
    """

    def __init__(
        self,
        send: Callable[[str], object],
        backlog: Callable[[], int],
        refusals: tuple[type[Exception], ...],
    ) -> None:
        self._send = send
        self._backlog = backlog
        self._refusals = refusals
        self._full_until = 0.0

    @property
    def is_full(self) -> bool:
        return time.monotonic() < self._full_until

    def offer(self, run_id: str) -> bool:
        if self.is_full:
            return True
        try:
            # a woken worker goes on until nothing is claimable: more messages than workers
            # change nothing, and busy workers do not take them off the queue
            if self._backlog() < ENOUGH_WAKES:
                self._send(run_id)
            else:
                self._full_until = time.monotonic() + STAYS_FULL
        except self._refusals as error:
            logger.warning("run %s waits: the broker is out of reach (%s)", run_id, error)
            return False
        return True
