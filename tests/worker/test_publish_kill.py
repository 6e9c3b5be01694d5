"""Publishing and importing under kill -9, at any point: no torn adapter, none listed without
its files, a stable path that always leads to a whole version, and nothing left after a sweep.

Half of the kills are timed from outside; the others strike just before a call that reaches
the disk or the database, one that the child counts to.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, select

from finlora_core.adapters.imports import import_tree
from finlora_core.adapters.store import AdapterStore
from finlora_core.adapters.verify import verify
from finlora_core.db.models import Adapter, Run
from finlora_core.db.session import Database, now
from finlora_core.runs import lifecycle
from finlora_core.runs.lifecycle import Lease, Order
from finlora_core.runs.outcome import AttemptEnd, End, RetryPolicy
from finlora_core.runs.status import RunStatus
from finlora_core.runs.sweep import sweep
from finlora_core.settings import Settings
from finlora_core.training.axolotl import Hardware
from finlora_core.training.files import AttemptFiles
from tests.bad_adapters import good, write
from tests.contract.test_lifecycle import TTL
from tests.lora import PROBE, write_adapter
from tests.support import FACTS, make_config
from worker.attempt import _load
from worker.bench import Bench
from worker.facts import Training
from worker.finish import adapter_of, finish
from worker.publish import publish

PUBLISH_KILLS, IMPORT_KILLS = 200, 60
NAMES = ("sentiment", "headline", "ner")

CALLS = frozenset(
    {"open", "write", "rename", "replace", "mkdir", "symlink", "unlink", "rmdir", "fsync",
     "execute", "commit", "close", "stat", "scandir", "listdir"}
)  # fmt: skip
"""Names of functions in C that reach the disk or the database."""

POLICY = RetryPolicy(max_crashes=10**6, backoff=0)

Work = Callable[[Database], object]


class World:
    """One SQLite file and one store, as the children that are killed leave them."""

    def __init__(self, url: URL, settings: Settings) -> None:
        self._url = url
        self._whole: set[str] = set()
        self.settings, self.store = settings, AdapterStore(settings.adapters)
        self.kills = 0

    @contextmanager
    def database(self) -> Iterator[Database]:
        """Closed again before the next child is forked."""
        database = Database.connect(self._url)
        yield database
        database.close()

    def run(self, work: Work, *, calls: int | None = None, seconds: float = 60) -> None:
        """In a child that is killed before that many calls, or after that many seconds."""
        child = os.fork()
        if child == 0:
            _be_the_child(self._url, work, calls)
        if signal.sigtimedwait([signal.SIGCHLD], seconds) is None:
            os.kill(child, signal.SIGKILL)
            signal.sigwait([signal.SIGCHLD])  # or the next wait would take it for its own
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "it failed by itself"
        self.kills += os.WIFSIGNALED(status)

    def count(self, work: Work) -> int:
        """How many calls it makes when nobody kills it."""
        told = self.settings.home / "calls"
        self.run(lambda database: told.write_text(str(_count(lambda: work(database)))))
        return int(told.read_text())

    def time(self, work: Work) -> float:
        """How many seconds it takes."""
        started = time.monotonic()
        self.run(work)
        return time.monotonic() - started

    def require_whole(self) -> None:
        """What any reader may rely on at any moment."""
        with self.database() as database:
            rows = _listed(database)
        for row in rows:
            if row.id not in self._whole:
                assert verify(self.store.folder(row.id), row.manifest_sha256) == []
                self._whole.add(row.id)
        for link in self._links():
            assert link.is_symlink()
            assert link.resolve().name in self._whole

    def require_nothing_left(self) -> None:
        """After a sweep: whole versions that are listed, and links to the newest."""
        at_once = self.settings.model_copy(update={"sweep_grace_seconds": 1e-9})
        with self.database() as database:
            sweep(database, self.store, at_once)
            rows = _listed(database)
        stored = {path.name for path in (self.settings.adapters / ".store").iterdir()}
        assert stored == {row.id for row in rows}
        assert os.listdir(self.settings.adapters / ".staging") == []
        newest = {(row.variant, row.name): row.id for row in rows}
        assert {(it.parent.name, it.name): it.resolve().name for it in self._links()} == newest
        for row in rows:
            assert verify(self.store.folder(row.id), row.manifest_sha256) == []

    def _links(self) -> Sequence[Path]:
        return [link for link in self.settings.adapters.glob("[!.]*/*")]


def _listed(database: Database) -> Sequence[Adapter]:
    with database.reading() as session:
        return session.scalars(select(Adapter).order_by(Adapter.version)).all()


def _be_the_child(url: URL, work: Work, calls: int | None) -> None:
    """Never returns into pytest."""
    code = 1
    try:
        database = Database.connect(url)
        if calls is not None:
            _count(lambda: work(database), fatal=calls)
        else:
            work(database)
        code = 0
    finally:
        os._exit(code)


def _count(work: Callable[[], object], *, fatal: int | None = None) -> int:
    """The calls that `work` makes; the process dies before the one of number `fatal`."""
    seen = 0

    def before(frame: object, event: str, called: Any) -> None:
        nonlocal seen
        if event == "c_call" and called.__name__ in CALLS:
            if seen == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    sys.setprofile(before)
    work()
    sys.setprofile(None)
    return seen


@pytest.fixture
def world(sqlite_url: URL, settings: Settings) -> Iterator[World]:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    yield World(sqlite_url, settings)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def strikes(
    world: World, work: Callable[[], Work], rng: random.Random
) -> Iterator[dict[str, Any]]:
    """Where to kill next: by turns at a call, and at a time."""
    calls, seconds = world.count(work()), world.time(work())
    while True:
        yield {"calls": rng.randrange(calls)}
        yield {"seconds": rng.uniform(0, seconds)}


# ---- publishing


def claimed(world: World, number: int) -> Lease:
    """An attempt of the run that an earlier one did not bring to its end, else of a new run."""
    with world.database() as database, database.transaction() as session:
        at = now(session)
        if lifecycle.unoffered(session, now=at, before=at) == []:
            order = Order(name=NAMES[number % len(NAMES)])
            lifecycle.create_run(session, make_config(), order, dataset=FACTS, now=at)
        lease = lifecycle.claim_next(session, worker="w", now=now(session), ttl=TTL)
        assert lease is not None
    return lease


def trained(files: AttemptFiles) -> None:
    """What the trainer leaves behind."""
    files.create()
    write_adapter(files.output)
    files.config.write_text('{"datasets": [{"type": "alpaca"}]}')
    files.completed.write_text(json.dumps({"steps": 1, "metrics": {}, "probe": PROBE}))


def publishing(world: World, lease: Lease) -> Work:
    """The last two steps of an attempt, as the worker does them."""

    def work(database: Database) -> None:
        bench = Bench(world.settings, database, world.store, Hardware.CPU, owner="w")
        attempt = _load(bench, lease)
        assert isinstance(attempt, Training)
        product = adapter_of(bench, attempt, publish(bench, attempt))
        finish(bench, attempt, AttemptEnd(end=End.COMPLETED), product)

    return work


def given_back(world: World, lease: Lease) -> bool:
    """Whether the run has succeeded; if not, it is queued again, as after any worker's death."""
    with world.database() as database, database.transaction() as session:
        lifecycle.take_back(session, lease, now=now(session), policy=POLICY)
        return session.get_one(Run, lease.run_id).status is RunStatus.SUCCEEDED


def test_publishing_survives_kills_at_any_point(world: World) -> None:
    rng = random.Random(20)  # noqa: S311  # the same points each time
    finished = 0
    lease = Lease("", 0, "")

    def attempt() -> Work:
        nonlocal lease
        lease = claimed(world, world.kills + finished)
        trained(AttemptFiles.of(world.settings.runs, lease.run_id, lease.attempt))
        return publishing(world, lease)

    points = strikes(world, attempt, rng)
    while world.kills < PUBLISH_KILLS:
        point = next(points)
        world.run(attempt(), **point)
        world.require_whole()
        finished += given_back(world, lease)
    world.require_nothing_left()
    assert finished  # kills between the commit and the link, and those that came too late


# ---- importing


def test_importing_survives_kills_at_any_point(world: World, tmp_path: Path) -> None:
    rng = random.Random(21)  # noqa: S311
    tries = 0

    def importing() -> Work:
        nonlocal tries
        tries += 1
        source = write(tmp_path / f"{tries}" / "8bits_r4" / NAMES[tries % 3], good(tries))
        return lambda database: import_tree(database, world.store, source)

    points = strikes(world, importing, rng)
    while world.kills < IMPORT_KILLS:
        point = next(points)
        world.run(importing(), **point)
        world.require_whole()
    world.require_nothing_left()
