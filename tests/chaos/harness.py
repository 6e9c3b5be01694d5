"""All of it, from an empty folder to the verdict."""

import itertools
import shutil
import signal
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import httpx
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from finlora_core.adapters.store import AdapterStore
from finlora_core.db.migrate import migrate
from finlora_core.db.models import Run
from finlora_core.db.session import Database
from finlora_core.runs.status import RunStatus
from finlora_core.settings import Settings, load_settings
from finlora_core.stack import free_port
from tests.chaos import processes, verdict
from tests.chaos.clients import Client, Ledger, Phase
from tests.chaos.databases import DatabaseServer, start_database
from tests.chaos.faults import Agenda, Faults
from tests.chaos.oracle import History, read_histories
from tests.chaos.parts import Parts
from tests.chaos.processes import Handle, Role
from tests.chaos.traits import Plan
from tests.chaos.verdict import Recovery, Truth, Verdict
from tests.lora import write_adapter
from tests.support import BASE_MODEL, bearer, eventually, make_key, write_dataset

WORKERS = 4
CLIENTS = 3
WAITING = 5
"""Queued runs there always are, so that no worker is ever idle."""

SETTLE_SECONDS = 60
"""After the last fault, how long it may take until another run has ended."""

ORPHAN_SECONDS = 3
REPORT_EVERY = 5.0
POLL = 0.05

TIMINGS = {
    "heartbeat_seconds": 0.2,
    "fence_seconds": 1.5,
    "stop_grace_seconds": 0.3,
    "lease_seconds": 7,  # fence + grace + what killing may take must stay below it
    "lease_grace_seconds": 0.5,
    "reconcile_seconds": 0.5,
    "reoffer_seconds": 1,
    "stall_seconds": 5,
    "drain_seconds": 2,
    "retry_backoff_seconds": 0.05,
    "checkpoint_seconds": 1,
    "sweep_grace_seconds": 20,
    "max_crashes": 50,
    "min_free_disk_mib": 0,
}
"""The defaults, some twenty times faster."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Order:
    kills: int
    seed: int
    db: str
    keep: bool = False


@dataclass
class Outcome:
    """What came of it."""

    order: Order
    folder: Path
    seconds: float
    faults: Faults
    ledger: Ledger
    truth: Truth
    histories: Mapping[str, History]
    verdict: Verdict
    not_ended: Sequence[str]
    killed_at_the_end: Sequence[str]
    extras: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.verdict.is_clean

    @property
    def recoveries(self) -> Sequence[Recovery]:
        """Of runs that nobody paused: those may have waited for their owner."""
        hits = [hit for hit in self.faults.interruptions if hit.run_id not in self.ledger.pauses]
        return verdict.recoveries(hits, self.histories)

    def summary(self) -> dict[str, Any]:
        """The last line: figures first, then what makes them up."""
        statuses = Counter(run.status.value for run in self.truth.runs.values())
        failures = Counter(run.error_code for run in self.truth.runs.values() if run.error_code)
        seconds = [recovery.seconds for recovery in self.recoveries]
        wrong = {name: len(entries) for name, entries in asdict(self.verdict).items()}
        return {
            "kills": self.faults.counts.total(),
            "accepted": len(self.ledger.accepted),
            **wrong,
            "recovery_p50_s": verdict.percentile(seconds, 0.5),
            "recovery_p99_s": verdict.percentile(seconds, 0.99),
            "recoveries": len(seconds),
            "db": self.order.db,
            "seed": self.order.seed,
            "seconds": round(self.seconds, 1),
            **statuses,
            "failures": failures,
            "not_ended": len(self.not_ended),
            "paused_and_resumed": len(self.ledger.pauses),
            "cancel_asked": len(self.ledger.cancels),
            "attempts": sum(len(log.of_kind("start")) for log in self.histories.values()),
            "faults": self.faults.counts,
            **self.extras,
        }


def run(order: Order, say: Say) -> Outcome:
    """Raises only when the harness itself cannot go on; what it finds is in the outcome."""
    folder = Path(tempfile.mkdtemp(prefix="finlora-chaos-")).resolve()
    say(f"everything lies in {folder}")
    database_server = start_database(order.db, folder)
    try:
        outcome = Chaos(order, folder, database_server, say).run()
    finally:
        database_server.stop()
    if outcome.passed and not order.keep:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


class Chaos:
    """One run of the harness, in order: start, strike, settle, stop, judge."""

    def __init__(self, order: Order, folder: Path, server: DatabaseServer, say: Say) -> None:
        self._order = order
        self._folder = folder
        self._say = say
        self._home = folder / "home"
        self._settings = _settings(self._home, server)
        self._plan = prepare_files(folder, self._settings, "mixed", order.seed)
        self._database = Database.connect(self._settings.database)
        migrate(self._database)
        self._key = make_key(self._database, self._settings)
        self._parts = Parts(self._settings, self._plan, workers=WORKERS)
        self._agenda = Agenda()
        dice = Random(order.seed)  # noqa: S311  # for repeating, not for secrets
        self._faults = Faults(self._parts, server, dice, self._agenda, self._note)
        self._ledger = Ledger()
        self._phase = Phase()
        numbers = itertools.count(1)
        self._clients = [
            Client(
                self._parts.url,
                self._key,
                self._ledger,
                numbers,
                Random(dice.random()),  # noqa: S311
                self._phase,
            )
            for _ in range(CLIENTS)
        ]
        self._counts: Mapping[str, int] = {}
        self._looked = self._reported = 0.0
        self._notes = (folder / "faults.log").open("a", buffering=1)

    def run(self) -> Outcome:
        started = time.monotonic()
        try:
            self._parts.start()
            self._strike_often()
            not_ended = self._settle()
            killed = self._parts.stop()
            orphans = self._orphans()
            outcome = self._outcome(time.monotonic() - started, not_ended, killed, orphans)
        finally:
            self._phase.is_over.set()
            self._leave_nothing()
            self._database.close()
            self._notes.close()
        return outcome

    def _strike_often(self) -> None:
        for client in self._clients:
            client.start()
        self._wait(2)
        dice = self._faults.dice
        while self._faults.counts.total() < self._order.kills:
            self._faults.strike()
            self._wait(dice.uniform(0.4, 0.9))
        self._phase.posting_is_over.set()

    def _settle(self) -> Sequence[str]:
        """Everything works again: the ids of runs that have not ended even so."""
        self._say("no more faults: waiting until every run has ended")
        self._agenda.run_all()
        before = alive = self._not_ended()
        since = time.monotonic()
        while alive and time.monotonic() < since + SETTLE_SECONDS:
            self._resume_paused()
            self._wait(0.5)
            if (alive := self._not_ended()) != before:
                before, since = alive, time.monotonic()
        self._phase.is_over.set()
        for client in self._clients:
            client.join()
        return alive

    def _not_ended(self) -> Sequence[str]:
        """Ids of runs, and the names of clients that still want something of theirs."""
        busy = [client.name for client in self._clients if client.is_alive()]
        with self._database.reading() as session:
            terminal = [status for status in RunStatus if status.is_terminal]
            alive = session.scalars(select(Run.id).where(Run.status.not_in(terminal)))
            return [*busy, *alive.all()]

    def _resume_paused(self) -> None:
        """Whoever paused a run may have got no answer, and so does not know that it is."""
        with self._database.reading() as session:
            paused = session.scalars(select(Run.id).where(Run.status == "paused")).all()
        if any(client.is_alive() for client in self._clients):
            return  # they may still resume it themselves
        for run_id in paused:
            url = f"{self._parts.url}/runs/{run_id}/resume"
            with suppress(httpx.TransportError):  # the API may not be up again: once more later
                httpx.post(url, timeout=10, headers=bearer(self._key))

    def _wait(self, seconds: float) -> None:
        """Meanwhile do what is due, keep the clients going, and say how it goes."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._agenda.run_due()
            if time.monotonic() - self._looked > 0.3:
                self._look()
            if time.monotonic() - self._reported > REPORT_EVERY:
                self._report()
            time.sleep(POLL)

    def _look(self) -> None:
        self._looked = time.monotonic()
        with suppress(SQLAlchemyError), self._database.reading() as session:
            counted = session.execute(select(Run.status, func.count()).group_by(Run.status))
            self._counts = {status.value: count for status, count in counted.all()}
            over = self._phase.posting_is_over.is_set()
            self._phase.wanted = 0 if over else WAITING - self._counts.get("queued", 0)

    def _report(self) -> None:
        self._reported = time.monotonic()
        found = processes.of_attempts(self._home)
        training = sum(process.role is Role.TRAINER for process in found)
        counts = ", ".join(f"{count} {status}" for status, count in sorted(self._counts.items()))
        kills = self._faults.counts.total()
        self._say(f"{kills}/{self._order.kills} kills; {training} in training; runs: {counts}")

    def _note(self, text: str) -> None:
        at = time.clock_gettime(time.CLOCK_BOOTTIME)
        clock = datetime.now(UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
        self._notes.write(f"{clock} {at:.3f} {text}\n")

    def _orphans(self) -> Sequence[str]:
        """What has survived the end of every part; a process may take a moment to be gone."""
        eventually(lambda: not processes.leftovers(self._home), seconds=ORPHAN_SECONDS)
        return processes.leftovers(self._home)

    def _leave_nothing(self) -> None:
        for part in self._parts.all:
            part.kill()
        for pid in processes.leftover_pids(self._home):
            with suppress(ProcessLookupError):
                Handle(pid).send(signal.SIGKILL)

    def _outcome(
        self, seconds: float, not_ended: Sequence[str], killed: Sequence[str],
        orphans: Sequence[str],
    ) -> Outcome:  # fmt: skip
        truth = verdict.read_truth(self._database)
        histories = read_histories(Path(self._plan.oracle))
        store = AdapterStore(self._settings.adapters)
        logs = [part.log for part in self._parts.all]
        return Outcome(
            order=self._order,
            folder=self._folder,
            seconds=seconds,
            faults=self._faults,
            ledger=self._ledger,
            truth=truth,
            histories=histories,
            verdict=verdict.judge(truth, histories, self._ledger, store, orphans),
            not_ended=not_ended,
            killed_at_the_end=killed,
            extras={
                "lost_intervals_max": verdict.lost_intervals(truth, histories, self._plan),
                "duplicates": verdict.duplicates(truth),
                "stale_links": len(verdict.stale_links(truth.adapters, store)),
                "killed_at_the_end": killed,
                "answers": self._ledger.answers,
                "exceptions": verdict.exceptions_in(logs),
            },
        )


def _settings(home: Path, server: DatabaseServer, **given: Any) -> Settings:
    return load_settings(
        home=home,
        port=free_port(),
        device="cpu",
        database_url=server.url,
        rate_limit="off",
        **{**TIMINGS, **given},
    )


def prepare_files(folder: Path, settings: Settings, kind: str, seed: int) -> Plan:
    """Folders, a dataset, a base model nobody opens, and what the trainers copy."""
    for path in (settings.home / "logs", settings.redis_socket.parent, folder / "oracle"):
        path.mkdir(parents=True)
    write_dataset(settings.datasets[0] / "train.jsonl")
    model = settings.models[0] / BASE_MODEL
    model.mkdir(parents=True)
    (model / "config.json").write_text('{"model_type": "llama"}')
    adapter, templates = folder / "adapter", folder / "templates"
    write_adapter(adapter)
    templates.mkdir()
    (templates / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        with zipfile.ZipFile(templates / name, "w") as archive:
            archive.writestr("data.pkl", b"a pickle" * 100)
    return Plan(kind, seed, str(folder / "oracle"), str(adapter), str(templates))
