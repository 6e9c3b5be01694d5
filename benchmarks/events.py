"""How late an event reaches 1,000 watchers of one API process: `make bench-events`.

One real API process, 100 runs, and in a process of its own 1,000 clients over loopback, 10 a run.
For 20 seconds runs get checkpoints, points and log lines, as workers' heartbeats write them; each
checkpoint is an event. Its delay counts from just before its commit until a client has read it.
First the clients hold a stream open (`text/event-stream`), then, with a fresh API, the same
clients ask for `GET /runs/{run_id}/events?after=` once a second each. The last line is JSON; the
exit status is 0 when every stream got every event.
"""

import argparse
import asyncio
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import func, select

from finlora_core.cli.terminal import API_KEY
from finlora_core.db.migrate import migrate
from finlora_core.db.models import Event
from finlora_core.db.session import Database, now
from finlora_core.runs import journal, lifecycle
from finlora_core.runs.lifecycle import Lease, Order
from finlora_core.settings import Settings, load_settings
from finlora_core.stack import free_port
from tests.chaos.databases import start_database
from tests.chaos.verdict import percentile
from tests.support import FACTS, bearer, eventually, make_config, make_key

WATCHERS = 1000
RUNS = 100
EVENTS_A_SECOND = 50
"""Of all runs together: each one saves a checkpoint every two seconds, far more than any does."""

SECONDS = 20.0
POLL_SECONDS = 1.0
OPEN_FILES = 4 * WATCHERS
LEASE = timedelta(minutes=10)
MIB = 1024 * 1024

Seen = list[tuple[int, float]]
"""Event, and when a client had read it, by the monotonic clock of the machine."""


# ---- the clients, in a process of their own


@dataclass
class Clients:
    port: int
    seen: Seen = field(default_factory=list)
    waiting: int = WATCHERS
    """Clients that have not had an answer yet."""

    async def run(self, run_ids: Sequence[str], *, polling: bool) -> None:
        client = self._poll if polling else self._watch
        tasks = [
            asyncio.create_task(client(run_ids[number % len(run_ids)], number))
            for number in range(WATCHERS)
        ]
        while self.waiting:
            await asyncio.sleep(0.05)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, run_id: str, number: int) -> None:
        reader, writer = await self._connect(number)
        self._ask(writer, f"/runs/{run_id}/events", "text/event-stream")
        answered = False
        async for line in reader:
            if line.startswith(b"id: "):
                self.seen.append((int(line[4:]), time.monotonic()))
                self.waiting -= not answered
                answered = True

    async def _poll(self, run_id: str, number: int) -> None:
        reader, writer = await self._connect(number)
        after, answered = 0, False
        while True:
            started = time.monotonic()
            self._ask(writer, f"/runs/{run_id}/events?after={after}", "application/json")
            page = await _read_answer(reader)
            self.seen += [(event["id"], time.monotonic()) for event in page["data"]]
            after = page["next_after"]
            self.waiting -= not answered
            answered = True
            await asyncio.sleep(max(0.0, started + POLL_SECONDS - time.monotonic()))

    async def _connect(self, number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        await asyncio.sleep(number / WATCHERS * POLL_SECONDS)  # not all in the same moment
        return await asyncio.open_connection("127.0.0.1", self.port)

    def _ask(self, writer: asyncio.StreamWriter, path: str, accept: str) -> None:
        headers = {"Host": "127.0.0.1", "Accept": accept, **bearer(os.environ[API_KEY])}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())


async def _read_answer(reader: asyncio.StreamReader) -> Any:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:-2])
    return json.loads(await reader.readexactly(int(lines[b"content-length"])))


def clients(port: int, polling: bool) -> None:
    """Run ids come in a line; then `ready` is said; a second line ends it, with what was seen."""
    run_ids = json.loads(sys.stdin.readline())
    here = Clients(port)
    asyncio.run(here.run(run_ids, polling=polling))
    print(json.dumps(here.seen), flush=True)


# ---- the API, the writer, the figures


@contextmanager
def api(settings: Settings) -> Iterator[int]:
    """Its process id."""
    command = [
        *(sys.executable, "-m", "uvicorn", "api.asgi:app", "--port", str(settings.port)),
        *("--log-level", "warning", "--no-access-log"),
    ]
    process = subprocess.Popen(command, env={**os.environ, **settings.environment()})
    try:
        url = f"http://127.0.0.1:{settings.port}/healthz"
        if not eventually(lambda: _answers(url), seconds=60):
            raise SystemExit("the API did not start")
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


def start_runs(database: Database) -> Sequence[Lease]:
    leases = []
    for number in range(RUNS):
        with database.transaction() as session:
            at, order = now(session), Order(name=f"run-{number}")
            lifecycle.create_run(session, make_config(), order, dataset=FACTS, now=at)
            lease = lifecycle.claim_next(session, worker="bench", now=at, ttl=LEASE)
            leases.append(lease)
    return [lease for lease in leases if lease is not None]


def write(database: Database, leases: Sequence[Lease]) -> Mapping[int, float]:
    """Each event's id, and when its commit began."""
    committed: dict[int, float] = {}
    started = time.monotonic()
    for number in range(int(SECONDS * EVENTS_A_SECOND)):
        time.sleep(max(0.0, started + number / EVENTS_A_SECOND - time.monotonic()))
        lease, step = leases[number % RUNS], number // RUNS + 1
        with database.transaction() as session:
            lifecycle.renew(session, lease, now=now(session), ttl=LEASE, checkpoint_step=step)
            points = [{"step": step, "loss": 1 / step}]
            journal.append_metrics(session, lease.run_id, lease.attempt, points)
            journal.append_log(session, lease.run_id, f"step {step}\n")
            newest = select(func.max(Event.id)).where(Event.run_id == lease.run_id)
            committed[session.scalars(newest).one()] = time.monotonic()
    return committed


def measure(database: Database, settings: Settings, *, polling: bool) -> dict[str, Any]:
    leases = start_runs(database)
    with api(settings) as pid:
        command = [sys.executable, "-m", "benchmarks.events", "--clients", str(settings.port)]
        process = subprocess.Popen(
            [*command, *(["--polling"] if polling else [])],
            env={**os.environ, API_KEY: make_key(database, settings)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None  # noqa: S101  # for mypy
        assert process.stdout is not None  # noqa: S101  # for mypy
        print(json.dumps([lease.run_id for lease in leases]), file=process.stdin, flush=True)
        opening = time.monotonic()
        process.stdout.readline()
        ready, cpu = time.monotonic(), _cpu_seconds(pid)
        committed = write(database, leases)
        wall, cpu = time.monotonic() - ready, _cpu_seconds(pid) - cpu
        time.sleep(2 * POLL_SECONDS)  # for what is on its way
        print(file=process.stdin, flush=True)
        seen = json.loads(process.stdout.readline())
        process.wait(30)
        return {
            "opened_s": round(ready - opening, 1),
            **_delays(committed, seen),
            "peak_memory_mib": _peak_memory(pid),
            "cpu_cores": round(cpu / wall, 2),
        }


def _delays(committed: Mapping[int, float], seen: Seen) -> dict[str, Any]:
    delays = sorted(at - committed[id] for id, at in seen if id in committed)
    wanted = len(committed) * WATCHERS // RUNS
    return {
        "deliveries": len(delays),
        "missing": wanted - len(delays),
        "p50_s": percentile(delays, 0.5),
        "p99_s": percentile(delays, 0.99),
        "max_s": percentile(delays, 1),
    }


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_memory(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    line = next(line for line in status if line.startswith("VmHWM"))
    return round(int(line.split()[1]) * 1024 / MIB)


def bench(kind: str) -> int:
    for name in list(os.environ):  # the defaults are what is measured
        if name.startswith("FINLORA_"):
            del os.environ[name]
    folder = Path(tempfile.mkdtemp(prefix="finlora-events-")).resolve()
    server = start_database(kind, folder)
    try:
        measured = {}
        for name, polling in (("streams", False), ("polling", True)):
            home = folder / name
            settings = load_settings(
                home=home, port=free_port(), database_url=server.url, rate_limit="off"
            )
            database = Database.connect(settings.database)
            migrate(database)
            measured[name] = measure(database, settings, polling=polling)
            database.close()
            print(f"  {name:8} {measured[name]}", flush=True)
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({"db": kind, "watchers": WATCHERS, "runs": RUNS, **measured}))
    return 1 if measured["streams"]["missing"] else 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--db", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--clients", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--polling", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(OPEN_FILES, hard), hard))
    if given.clients is not None:
        clients(given.clients, given.polling)
        return 0
    return bench(given.db)


if __name__ == "__main__":
    sys.exit(main())
