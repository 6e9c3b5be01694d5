"""Server-sent events: one reader a process for however many watch.

What grows of a run (its events, its metrics, its log) is a feed, read by cursor. The hub asks
the database every `POLL_SECONDS` how far the watched runs are, with one query a feed, reads what
is new once, and every watcher of it sends the same bytes. What is older than that, each watcher
reads for itself, page by page, a few of them at a time: whoever has just come, and whoever takes
less than there is. So a watcher holds a page at most, and no thread and no connection.

A run's writers hold the lock of its row, so within a run cursors are committed in order. Across
runs they are not: there is a cursor a run, and none for all.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import anyio
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from sqlalchemy import ScalarSelect, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from api.accept import STREAM
from finlora_core.db.models import Run
from finlora_core.db.session import Database
from finlora_core.runs.status import RunStatus

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
KEEP_ALIVE_SECONDS = 15.0
"""Proxies cut connections that are silent for a minute, some for half of it."""

RETRY_MILLISECONDS = 2000
"""After which a client whose connection broke comes again."""

RECENT_BYTES = 64 * 1024
"""Kept of each feed of each watched run; whoever is further behind reads the database."""

READERS = 4
"""Watchers that may read the database at once."""

PAGES_AT_ONCE = 8
"""Of one feed that the reader takes in one look; the others wait meanwhile."""

RUNS_AT_ONCE = 500
"""Asked for in one query."""


@dataclass(frozen=True)
class Message:
    """A piece of a feed, as it is sent."""

    start: int
    """It holds all that comes after this cursor, up to its own."""
    cursor: int
    sent: bytes

    @classmethod
    def of(cls, start: int, cursor: int, data: str) -> "Message":
        """`data` is JSON in one line."""
        return cls(start, cursor, format_sse_event(data_str=data, id=str(cursor)))


@dataclass(frozen=True, eq=False)
class Feed:
    """Something of a run that only grows."""

    newest: ScalarSelect[int]
    """The cursor of its last entry, for the row of `runs` that it stands in a query of."""
    read: Callable[[Session, str, int], Sequence[Message]]
    """One page of a run's entries after a cursor; empty at the end."""


Key = tuple[Feed, str]
Found = TypeVar("Found")


@dataclass(frozen=True)
class News:
    """What the reader has found for a feed of a run."""

    messages: Sequence[Message]
    position: int
    end: bytes | None
    """What to say last, when nothing can come after this."""


@dataclass
class Topic:
    """A feed of a run while somebody watches it."""

    watchers: int = 0
    position: int | None = None
    """Read up to here; None before the first look."""
    floor: int = 0
    """All that came after this, up to the position, is in `recent`."""
    recent: deque[Message] = field(default_factory=deque)
    size: int = 0
    end: bytes | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, news: News) -> None:
        if self.position is None:
            self.floor = news.position
            self.position = news.position
        for message in news.messages:
            if message.cursor > self.position:
                self._keep(message)
        self.position, self.end = news.position, news.end
        self.wake()

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def after(self, cursor: int) -> Sequence[Message] | None:
        """What comes after this cursor; None when it is not all here, or begins inside a
        message: whoever has read the log since the last look stands there."""
        if self.position is None or cursor < self.floor:
            return None
        messages = [message for message in self.recent if message.cursor > cursor]
        return None if messages and messages[0].start < cursor else messages

    def _keep(self, message: Message) -> None:
        self.recent.append(message)
        self.size += len(message.sent)
        while self.size > RECENT_BYTES:
            oldest = self.recent.popleft()
            self.floor, self.size = oldest.cursor, self.size - len(oldest.sent)


class Hub:
    """Lives on the event loop; only its queries run in threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._topics: dict[Key, Topic] = {}
        self._reader: asyncio.Task[None] | None = None
        self._limit = anyio.CapacityLimiter(READERS)
        self._is_closed = False

    def respond(self, feed: Feed, run_id: str, *, after: int) -> StreamingResponse:
        """What the feed holds after the cursor, and then what comes, until the run has ended."""
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(
            self._watch((feed, run_id), after), media_type=STREAM, headers=headers
        )

    def close(self) -> None:
        """End all streams where they stand; their clients know where to go on."""
        self._is_closed = True
        for topic in self._topics.values():
            topic.wake()

    async def _watch(self, key: Key, cursor: int) -> AsyncIterator[bytes]:
        yield format_sse_event(retry=RETRY_MILLISECONDS)
        with self._joined(key) as topic:
            while not self._is_closed:
                # both taken before looking: what changes meanwhile is seen in the next round
                changed, end = topic.changed, topic.end
                messages = await self._after(key, topic, cursor)
                if messages is None:
                    return
                if messages:
                    cursor = messages[-1].cursor
                    yield b"".join(message.sent for message in messages)
                elif end is not None:
                    yield end
                    return
                elif not await _happens(changed):
                    yield KEEPALIVE_COMMENT

    async def _after(self, key: Key, topic: Topic, cursor: int) -> Sequence[Message] | None:
        """A page of what comes after the cursor; None when the database does not answer."""
        if (recent := topic.after(cursor)) is not None:
            return recent
        feed, run_id = key
        read = partial(self._read, lambda session: feed.read(session, run_id, cursor))
        return await anyio.to_thread.run_sync(read, limiter=self._limit)

    @contextmanager
    def _joined(self, key: Key) -> Iterator[Topic]:
        topic = self._topics.setdefault(key, Topic())
        topic.watchers += 1
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read_on())
        try:
            yield topic
        finally:
            topic.watchers -= 1
            if not topic.watchers:
                del self._topics[key]

    async def _read_on(self) -> None:
        """For as long as anybody watches."""
        while self._topics and not self._is_closed:
            for feed in {feed for feed, _ in self._topics}:
                await self._look(feed)
            await asyncio.sleep(POLL_SECONDS)

    async def _look(self, feed: Feed) -> None:
        positions = {
            run_id: topic.position
            for (of, run_id), topic in self._topics.items()
            if of is feed and topic.end is None
        }
        run_ids = list(positions)
        for start in range(0, len(run_ids), RUNS_AT_ONCE):
            some = {run_id: positions[run_id] for run_id in run_ids[start : start + RUNS_AT_ONCE]}
            query = partial(_news, feed=feed, positions=some)
            for run_id, news in (await asyncio.to_thread(self._read, query) or {}).items():
                if topic := self._topics.get((feed, run_id)):
                    topic.take(news)

    def _read(self, query: Callable[[Session], Found]) -> Found | None:
        """None, and a line in the log, when it cannot be read."""
        try:
            with self._database.reading() as session:
                return query(session)
        except SQLAlchemyError as error:
            logger.warning("cannot read for a stream now: %s", type(error).__name__)
        except Exception:  # whatever it was: without the reader all streams would fall silent
            logger.exception("cannot read for a stream now")
        return None


async def _happens(event: asyncio.Event) -> bool:
    """Whether it does while a connection may be silent."""
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), KEEP_ALIVE_SECONDS)
    return event.is_set()


def _news(session: Session, feed: Feed, positions: Mapping[str, int | None]) -> Mapping[str, News]:
    """Of these runs, read up to these positions; None for one that is looked at first."""
    # status and newest entry in one statement: what has ended has written all of it
    states = select(Run.id, Run.status, feed.newest.label("newest")).where(Run.id.in_(positions))
    found = {row.id: row for row in session.execute(states)}
    news = {}
    for run_id, position in positions.items():
        if run_id not in found:  # deleted
            news[run_id] = News((), position or 0, _end(None))
            continue
        status, newest = found[run_id].status, found[run_id].newest or 0
        start = newest if position is None else position
        messages = _read_pages(session, feed, run_id, start, newest)
        reached = messages[-1].cursor if messages else start
        is_over = status.is_terminal and reached >= newest
        if messages or is_over or position is None:
            news[run_id] = News(messages, reached, _end(status) if is_over else None)
    return news


def _read_pages(
    session: Session, feed: Feed, run_id: str, after: int, newest: int
) -> Sequence[Message]:
    """What there is up to the newest, or the first pages of it."""
    messages: list[Message] = []
    for _ in range(PAGES_AT_ONCE):
        if after >= newest or not (page := feed.read(session, run_id, after)):
            break
        messages += page
        after = messages[-1].cursor
    return messages


def _end(status: RunStatus | None) -> bytes:
    """The last event of a stream; no status when the run has been deleted."""
    return format_sse_event(event="end", data_str=json.dumps({"status": status}))
