"""Events, metrics and the log: pages, and streams from a real server over real connections."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from random import Random
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from api import hub as hubs
from api.access import authenticate
from api.hub import RECENT_BYTES, Hub, Message, News, Topic
from api.main import create_app
from api.routers.journal import EVENTS
from finlora_core.access.keys import Caller
from finlora_core.access.scopes import ALL
from finlora_core.adapters.store import AdapterStore
from finlora_core.db.models import Run
from finlora_core.db.session import Database, now
from finlora_core.runs import journal, lifecycle
from finlora_core.runs.lifecycle import Lease, Order
from finlora_core.runs.outcome import AttemptEnd, End
from finlora_core.settings import Settings
from finlora_core.stack import free_port
from tests.support import FACTS, POLICY, ListQueue, bearer, eventually, make_config, make_key

SSE = {"Accept": "text/event-stream"}
COMPLETED = AttemptEnd(end=End.COMPLETED)


@pytest.fixture
def app(settings: Settings, database: Database, queue: ListQueue, store: AdapterStore) -> FastAPI:
    """Everybody is `local` here: who may watch what is tested with the other routes."""
    app = create_app(settings=settings, database=database, queue=queue, store=store)
    app.dependency_overrides[authenticate] = lambda: Caller("local", "key", ALL)
    return app


@pytest.fixture
def server(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(hubs, "POLL_SECONDS", 0.02)
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, name="server")
    thread.start()
    assert eventually(lambda: server.started)
    yield f"http://127.0.0.1:{port}"
    app.state.hub.close()
    server.should_exit = True
    thread.join()


@pytest.fixture
def lease(database: Database) -> Lease:
    return start(database)


def start(database: Database) -> Lease:
    with database.transaction() as session:
        at = now(session)
        lifecycle.create_run(session, make_config(), Order(name="n"), dataset=FACTS, now=at)
        lease = lifecycle.claim_next(session, worker="w", now=at, ttl=timedelta(minutes=9))
        assert lease is not None
        return lease


def write(database: Database, lease: Lease, step: int) -> None:
    """A heartbeat with an event, a point and a line."""
    with database.transaction() as session:
        lifecycle.renew(
            session, lease, now=now(session), ttl=timedelta(minutes=9), checkpoint_step=step
        )
        journal.append_metrics(session, lease.run_id, lease.attempt, [{"step": step, "loss": 0.5}])
        journal.append_log(session, lease.run_id, f"step {step}: ä\r🙂\n")


def finish(database: Database, lease: Lease) -> None:
    with database.transaction() as session:
        lifecycle.finish(session, lease, COMPLETED, now=now(session), policy=POLICY)


class Stream:
    """A reader of server-sent events, by the rules of the HTML standard."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.iter_lines()
        self.retry: str | None = None

    def __iter__(self) -> Iterator[dict[str, str]]:
        event: dict[str, str] = {}
        for line in self._lines:
            name, _, value = line.partition(":")
            if not line and "data" in event:
                yield event
            event = event if line else {}
            if name == "retry":
                self.retry = value.strip()
            elif name:
                event[name] = value.removeprefix(" ")


@contextmanager
def opened(server: str, path: str, **headers: str) -> Iterator[Stream]:
    with httpx.stream("GET", server + path, headers={**SSE, **headers}, timeout=20) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Stream(response)


def everything(server: str, path: str, **headers: str) -> Sequence[dict[str, str]]:
    """Up to the end."""
    with opened(server, path, **headers) as stream:
        return list(stream)


def ids(events: Sequence[dict[str, str]]) -> list[int]:
    return [int(event["id"]) for event in events if "id" in event]


def page(server: str, path: str, **params: int) -> Any:
    return httpx.get(server + path, params=params).json()


def test_events_come_in_pages(client: TestClient, database: Database, lease: Lease) -> None:
    path = f"/runs/{lease.run_id}/events"
    write(database, lease, 7)
    first = client.get(path, params={"limit": 2}).json()
    rest = client.get(path, params={"after": first["next_after"]}).json()
    assert [event["type"] for event in first["data"]] == ["created", "started"]
    (saved,) = rest["data"]
    assert (saved["type"], saved["level"], saved["data"]) == (
        *("checkpoint_saved", "info"),
        {"attempt": 1, "step": 7},
    )
    assert client.get(path, params={"after": rest["next_after"]}).json() == {
        "data": [],
        "next_after": rest["next_after"],
    }


@pytest.mark.parametrize("feed", ["events", "metrics", "logs"])
def test_the_stream_of_an_unknown_run_is_a_404(client: TestClient, feed: str) -> None:
    response = client.get(f"/runs/run_none/{feed}", headers=SSE)
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("made_up", ["x", "-1", "1.5", str(2**63)])
def test_a_made_up_last_event_id_is_refused(
    client: TestClient, lease: Lease, made_up: str
) -> None:
    headers = {**SSE, "Last-Event-ID": made_up}
    response = client.get(f"/runs/{lease.run_id}/events", headers=headers)
    assert response.status_code == 422
    assert response.json()["errors"][0]["key"] == "last-event-id"


def test_who_does_not_ask_for_a_stream_gets_a_page(client: TestClient, lease: Lease) -> None:
    for accept in ("*/*", "application/json", "text/event-stream;q=0.1, application/json"):
        response = client.get(f"/runs/{lease.run_id}/events", headers={"Accept": accept})
        assert response.headers["content-type"] == "application/json"
    log = client.get(f"/runs/{lease.run_id}/logs", headers={"Accept": "text/*"})
    assert log.headers["content-type"].startswith("text/plain")


def test_both_content_types_are_documented(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for feed, other in (
        ("events", "application/json"),
        ("metrics", "application/json"),
        ("logs", "text/plain"),
    ):
        answer = paths[f"/runs/{{run_id}}/{feed}"]["get"]["responses"]["200"]
        assert set(answer["content"]) == {other, "text/event-stream"}


def test_a_stream_shows_what_was_what_comes_and_the_end(
    server: str, database: Database, lease: Lease
) -> None:
    with opened(server, f"/runs/{lease.run_id}/events") as stream:
        events = iter(stream)
        assert [json.loads(next(events)["data"])["type"] for _ in range(2)] == [
            *("created", "started"),
        ]
        write(database, lease, 3)
        assert json.loads(next(events)["data"])["data"] == {"attempt": 1, "step": 3}
        finish(database, lease)
        rest = list(events)
    assert stream.retry == "2000"
    assert json.loads(rest[0]["data"])["type"] == "succeeded"
    assert rest[1:] == [{"event": "end", "data": '{"status": "succeeded"}'}]


def test_a_stream_holds_what_the_pages_hold(server: str, database: Database, lease: Lease) -> None:
    for step in range(1, 6):
        write(database, lease, step)
    finish(database, lease)
    path = f"/runs/{lease.run_id}"
    for feed in ("events", "metrics"):
        *streamed, end = everything(server, f"{path}/{feed}")
        assert [json.loads(each["data"]) for each in streamed] == page(server, f"{path}/{feed}")[
            "data"
        ]
        assert end["event"] == "end"
    *pieces, end = everything(server, f"{path}/logs")
    text = "".join(json.loads(piece["data"])["text"] for piece in pieces)
    assert text == httpx.get(f"{server}{path}/logs").text
    assert ids(pieces)[-1] == len(text)


def test_a_long_log_comes_in_pieces_without_gap(
    server: str, database: Database, lease: Lease
) -> None:
    lines = "".join(f"line {n}: {'x' * 90}\n" for n in range(3000))
    with database.transaction() as session:
        for start in range(0, len(lines), 50_000):
            journal.append_log(session, lease.run_id, lines[start : start + 50_000])
    finish(database, lease)
    *pieces, _ = everything(server, f"/runs/{lease.run_id}/logs?offset=10")
    assert len(pieces) > 3
    assert "".join(json.loads(piece["data"])["text"] for piece in pieces) == lines[10:]


def test_last_event_id_beats_after_and_a_later_one_than_there_is_gets_the_end(
    server: str, database: Database, lease: Lease
) -> None:
    finish(database, lease)
    path = f"/runs/{lease.run_id}/events"
    all_ids = ids(everything(server, path))
    assert ids(everything(server, path, **{"Last-Event-ID": str(all_ids[0])})) == all_ids[1:]
    assert ids(everything(server, f"{path}?after={all_ids[1]}")) == all_ids[2:]
    both = everything(server, f"{path}?after=0", **{"Last-Event-ID": str(all_ids[1])})
    assert ids(both) == all_ids[2:]
    late = everything(server, path, **{"Last-Event-ID": str(all_ids[-1] + 1000)})
    assert [each["event"] for each in late] == ["end"]


@pytest.mark.parametrize("feed", ["events", "metrics", "logs"])
def test_a_watcher_whose_connection_breaks_anywhere_misses_and_repeats_nothing(
    server: str, database: Database, lease: Lease, feed: str
) -> None:
    """Connections are cut after a random number of bytes while a run is written; after more of
    them when a message did not fit."""
    dice = Random(feed)  # noqa: S311
    path = f"/runs/{lease.run_id}/{feed}"

    read_on = threading.Semaphore(0)

    def write_all() -> None:
        for step in range(1, 60):
            read_on.acquire()  # not far ahead of the watcher
            write(database, lease, step)
        finish(database, lease)

    writer = threading.Thread(target=write_all)
    writer.start()
    seen: list[int] = []
    data: list[dict[str, Any]] = []
    connections, limit = 0, 300
    while True:
        connections += 1
        headers = {**SSE, "Last-Event-ID": str(seen[-1] if seen else 0)}
        body, budget = b"", dice.randint(20, limit)
        with httpx.stream("GET", server + path, headers=headers, timeout=20) as response:
            read_on.release(2)
            for chunk in response.iter_raw():
                read_on.release()
                body += chunk
                if len(body) >= budget:
                    break
        whole = body[:budget].split(b"\n\n")[:-1]  # what was cut in the middle does not count
        for event in whole:
            fields = dict(line.split(b": ", 1) for line in event.split(b"\n"))
            if b"id" in fields:
                seen.append(int(fields[b"id"]))
                data.append(json.loads(fields[b"data"]))
        limit = 300 if any(b"id: " in event for event in whole) else 2 * limit
        if any(b"event: end" in event for event in whole):
            break
    writer.join()
    assert connections > 3
    *undisturbed, _ = everything(server, path)
    expected = [json.loads(event["data"]) for event in undisturbed]
    if feed == "logs":  # the same text, in other pieces
        assert text_of(data) == text_of(expected)
    else:
        assert data == expected


def text_of(pieces: Sequence[Mapping[str, str]]) -> str:
    return "".join(piece["text"] for piece in pieces)


def test_many_watchers_of_many_runs_get_the_same(server: str, database: Database) -> None:
    leases = [start(database) for _ in range(4)]

    async def watch(client: httpx.AsyncClient, lease: Lease) -> list[str]:
        url = f"{server}/runs/{lease.run_id}/events"
        async with client.stream("GET", url, headers=SSE) as response:
            return [line async for line in response.aiter_lines()]

    async def watch_all() -> list[list[str]]:
        async with httpx.AsyncClient(timeout=20, limits=httpx.Limits()) as client:
            watching = [
                asyncio.create_task(watch(client, lease)) for lease in leases for _ in range(8)
            ]
            for step in range(1, 6):
                for lease in leases:
                    await asyncio.to_thread(write, database, lease, step)
            for lease in leases:
                await asyncio.to_thread(finish, database, lease)
            return await asyncio.gather(*watching)

    seen = asyncio.run(watch_all())
    data = [[line for line in lines if line.startswith("id:")] for lines in seen]
    for number in range(len(leases)):
        of_run = data[number * 8 : number * 8 + 8]
        assert all(each == of_run[0] for each in of_run)
        assert len(of_run[0]) == 8


def test_a_client_that_leaves_is_forgotten(app: FastAPI, server: str, lease: Lease) -> None:
    with opened(server, f"/runs/{lease.run_id}/events") as stream:
        next(iter(stream))
        assert app.state.hub._topics
    assert eventually(lambda: not app.state.hub._topics)


def test_a_silent_stream_is_kept_alive(
    server: str, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubs, "KEEP_ALIVE_SECONDS", 0.05)
    url = f"{server}/runs/{lease.run_id}/metrics"
    with httpx.stream("GET", url, headers=SSE, timeout=20) as response:
        lines = response.iter_lines()
        assert next(line for line in lines if line.startswith(":")) == ": ping"


def test_a_run_that_is_deleted_ends_its_streams(
    server: str, database: Database, lease: Lease
) -> None:
    with opened(server, f"/runs/{lease.run_id}/events") as stream:
        events = iter(stream)
        next(events)
        with database.transaction() as session:
            session.delete(session.get_one(Run, lease.run_id))
        assert list(events)[-1] == {"event": "end", "data": '{"status": null}'}


def test_a_server_that_is_told_to_stop_does_not_wait_for_its_streams(
    settings: Settings, sqlite: Database
) -> None:
    lease = start(sqlite)
    here = settings.model_copy(update={"port": free_port()})
    url = f"http://127.0.0.1:{here.port}"
    command = [sys.executable, "-m", "uvicorn", "api.asgi:app", "--port", str(here.port)]
    with subprocess.Popen(command, env={**os.environ, **here.environment()}) as process:
        try:
            assert eventually(lambda: answers(url))
            key = bearer(make_key(sqlite, settings))
            with opened(url, f"/runs/{lease.run_id}/events", **key) as stream:
                events = iter(stream)
                next(events)
                process.terminate()
                assert "end" not in [event.get("event") for event in events]
            process.wait(20)
        finally:
            process.kill()


def answers(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"{url}/healthz").is_success
    return False


# ---- the parts, without a server


def message(cursor: int, size: int = 10) -> Message:
    return Message(cursor - 1, cursor, b"x" * size)


def test_a_cursor_inside_a_message_is_not_served_from_what_is_kept() -> None:
    topic = Topic()
    topic.take(News((), 10, None))
    topic.take(News([Message(10, 20, b"10 to 20"), Message(20, 30, b"20 to 30")], 30, None))
    assert [each.sent for each in topic.after(10) or ()] == [b"10 to 20", b"20 to 30"]
    assert topic.after(15) is None
    assert [each.sent for each in topic.after(20) or ()] == [b"20 to 30"]
    assert topic.after(25) is None
    assert topic.after(30) == []
    assert topic.after(9) is None


@given(
    sizes=st.lists(st.integers(1, RECENT_BYTES), max_size=30),
    pages=st.lists(st.integers(0, 3), max_size=20),
)
def test_a_topic_holds_a_bounded_and_unbroken_end_of_its_feed(
    sizes: list[int], pages: list[int]
) -> None:
    topic = Topic()
    topic.take(News((), 100, None))
    messages = [message(101 + n, size) for n, size in enumerate(sizes)]
    for count in [*pages, len(messages)]:
        some, messages = messages[:count], messages[count:]
        topic.take(News(some, some[-1].cursor if some else topic.position or 0, None))
        assert sum(len(each.sent) for each in topic.recent) == topic.size <= RECENT_BYTES
        assert topic.position is not None
        for cursor in range(99, topic.position + 1):
            held = topic.after(cursor)
            if held is not None:
                found = [each.cursor for each in held]
                assert found == list(range(cursor + 1, topic.position + 1))


def test_a_slow_watcher_holds_up_nobody_and_still_gets_everything(
    database: Database, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes one message and stops; meanwhile more is written than the hub keeps."""
    monkeypatch.setattr(hubs, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(hubs, "RECENT_BYTES", 300)

    async def check() -> tuple[bytes, bytes]:
        hub = Hub(database)
        slow = watch(hub, lease.run_id)
        taken = [await anext(slow), await anext(slow)]
        quick = asyncio.create_task(drain(watch(hub, lease.run_id)))
        for step in range(1, 30):
            await asyncio.to_thread(write, database, lease, step)
        await asyncio.to_thread(finish, database, lease)
        whole = await quick
        (topic,) = hub._topics.values()
        assert topic.size <= 300
        taken.append(await drain(slow))
        assert not hub._topics
        return b"".join(taken), whole

    slow, quick = asyncio.run(check())
    assert slow == quick
    assert quick.count(b"id: ") == 32


def test_closing_ends_every_stream_where_it_stands(database: Database, lease: Lease) -> None:
    async def check() -> bytes:
        hub = Hub(database)
        watching = asyncio.create_task(drain(watch(hub, lease.run_id)))
        while not hub._topics:
            await asyncio.sleep(0)
        hub.close()
        return await watching

    assert b"event: end" not in asyncio.run(check())


def watch(hub: Hub, run_id: str) -> Any:
    return hub.respond(EVENTS, run_id, after=0).body_iterator


async def drain(stream: Any) -> bytes:
    return b"".join([chunk async for chunk in stream])
