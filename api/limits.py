"""How many requests a key may send, told in `RateLimit-*` on every answer.

Counted in this process, or in the broker's Redis where several processes may share it. The
window slides: what was sent in the one before counts for less and less.
"""

import logging
import math
import time
from dataclasses import dataclass
from functools import partial

from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from finlora_core.errors import RateLimited
from finlora_core.settings import Settings

logger = logging.getLogger(__name__)

PATIENCE = 0.25
"""Seconds for Redis to answer; a request waits this long at most."""

LEFT_ALONE = 5.0
"""Seconds that a Redis which did not answer is not asked again."""

_STATE = "rate_limit"


@dataclass(frozen=True)
class Left:
    """What a key has left."""

    limit: int
    remaining: int
    reset: int
    """Seconds until there is more."""


class RequestLimit:
    """Counts requests, and counts by itself while Redis is away."""

    def __init__(self, item: RateLimitItem, redis_url: str | None) -> None:
        self._item = item
        self._alone = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._redis = _redis(redis_url) if redis_url else None
        self._shared = SlidingWindowCounterRateLimiter(self._redis) if self._redis else None
        self._back_at = 0.0

    @classmethod
    def of(cls, settings: Settings) -> "RequestLimit | None":
        """None where there is none."""
        if settings.rate_limit == "off":
            return None
        redis = settings.broker if settings.broker_url else None
        return cls(parse(settings.rate_limit), redis)

    async def count(self, scope: Scope, key_id: str) -> None:
        """One more request; `ShowLimits` tells of it. Raises `RateLimited`.

        A request whose key is asked for twice, before its body is read and after, counts once.
        """
        if _STATE in scope.setdefault("state", {}):
            return
        is_allowed, left = await self._hit(key_id)
        scope["state"][_STATE] = left
        if not is_allowed:
            raise RateLimited(
                f"this key may send {left.limit} requests in {self._item.get_expiry()} s; "
                f"go on in {left.reset} s",
                retry_after=left.reset,
            )

    async def close(self) -> None:
        if self._redis is not None:
            await self._redis.bridge.get_connection().aclose()  # type: ignore[attr-defined]

    async def _hit(self, key_id: str) -> tuple[bool, Left]:
        if self._shared is not None and time.monotonic() >= self._back_at:
            try:
                return await self._hit_in(self._shared, key_id)
            except (RedisError, OSError) as error:
                self._back_at = time.monotonic() + LEFT_ALONE
                logger.warning("Redis is away, requests are counted here: %s", error)
        return await self._hit_in(self._alone, key_id)

    async def _hit_in(
        self, limiter: SlidingWindowCounterRateLimiter, key_id: str
    ) -> tuple[bool, Left]:
        is_allowed = await limiter.hit(self._item, key_id)
        stats = await limiter.get_window_stats(self._item, key_id)
        wait = stats.reset_time - time.time()
        if not is_allowed:  # one full window has just become the one before: one more share of it
            wait += self._item.get_expiry() / self._item.amount
        remaining = stats.remaining if is_allowed else 0
        return is_allowed, Left(self._item.amount, remaining, max(1, math.ceil(wait)))


class ShowLimits:
    """Around the whole application: errors tell what is left, too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope.setdefault("state", {})
            send = partial(_send, scope, send)
        await self._app(scope, receive, send)


async def _send(scope: Scope, send: Send, message: Message) -> None:
    left: Left | None = scope["state"].get(_STATE)
    if left is not None and message["type"] == "http.response.start":
        headers = MutableHeaders(scope=message)
        headers["RateLimit-Limit"] = str(left.limit)
        headers["RateLimit-Remaining"] = str(left.remaining)
        headers["RateLimit-Reset"] = str(left.reset)
    await send(message)


def _redis(broker_url: str) -> RedisStorage:
    url = broker_url.replace("redis+socket://", "redis+unix://")  # kombu's word, and limits'
    return RedisStorage(
        f"async+{url}",
        implementation="redispy",
        socket_timeout=PATIENCE,
        socket_connect_timeout=PATIENCE,
        retry=Retry(NoBackoff(), 0),  # type: ignore[arg-type]  # handed on to redis-py as it is
    )
