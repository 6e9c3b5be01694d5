"""What a worker works with, built once at its start and passed inward."""

import logging
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from finlora_core.adapters.store import AdapterStore, MergedStore
from finlora_core.db.session import Database, now
from finlora_core.errors import InvalidSettings
from finlora_core.runs import lifecycle, workers
from finlora_core.runs.lifecycle import Lease
from finlora_core.runs.status import Phase
from finlora_core.settings import Settings
from finlora_core.training.axolotl import Hardware
from finlora_core.training.files import AttemptFiles
from worker.hardware import detect, gpus_of
from worker.host import ProcessId
from worker.locks import gpu_lock, is_held
from worker.trainer import axolotl_command

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bench:
    settings: Settings
    database: Database
    store: AdapterStore
    hardware: Hardware
    owner: str
    """Host and process (`worker.host.ProcessId`): who holds a run, and whether it is dead."""
    gpus: Sequence[str] = ()
    """UUIDs of those that this worker may train on; none on a CPU."""
    host: str = ""
    """One a machine: containers on it have the same."""
    train_command: Callable[[AttemptFiles, int], Sequence[str]] = axolotl_command
    """For an attempt's files and a number of processes."""
    evaluate_command: Sequence[str] = (sys.executable, "-m", "worker.evaluator")
    merge_command: Sequence[str] = (sys.executable, "-m", "worker.merger")
    draining: threading.Event = field(default_factory=threading.Event)
    """Set when the worker is to shut down: stop training, give the run back."""

    @property
    def merged(self) -> MergedStore:
        return MergedStore(self.settings.adapters)

    def gpu_lock(self, gpu: str) -> Path:
        return gpu_lock(self.settings.home, gpu)

    def free_gpus(self) -> Sequence[str]:
        """Those on which no other worker of this host, nor what one left behind, trains."""
        return [gpu for gpu in self.gpus if not is_held(self.gpu_lock(gpu))]

    def join(self) -> None:
        """Raises `InvalidSettings` when SQLite would have workers on two hosts."""
        with self.database.transaction() as session:
            others = workers.elsewhere(session, self.host, since=self._alive_since(session))
        if others and self.database.engine.dialect.name == "sqlite":
            raise InvalidSettings(
                f"the SQLite database is in use by a worker on another host ({others[0]}), and "
                "SQLite serves one host only; use PostgreSQL (FINLORA_DATABASE_URL), or, if that "
                f"worker is gone, wait {self.settings.lease_seconds:g} s and start again"
            )
        self.check_in()

    def check_in(self) -> None:
        with self.database.transaction() as session:
            at, since = now(session), self._alive_since(session)
            gpus = max(1, len(self.gpus))
            workers.check_in(session, self.owner, self.host, gpus=gpus, now=at, since=since)

    def leave(self) -> None:
        with suppress(SQLAlchemyError), self.database.transaction() as session:
            workers.check_out(session, self.owner)
        self.database.close()

    def _alive_since(self, session: Session) -> datetime:
        return now(session) - timedelta(seconds=self.settings.lease_seconds)

    def tell(self, write: Callable[[Session, datetime], None]) -> None:
        """Write what is for people only: an outage of the database is not worth a training.

        Raises `LeaseLost` as every fenced write does.
        """
        try:
            with self.database.transaction() as session:
                write(session, now(session))
        except OperationalError as error:
            logger.warning("not recorded, the database is away: %s", error.orig)

    def enter_phase(self, lease: Lease, phase: Phase) -> None:
        """Raises `LeaseLost`."""
        self.tell(lambda session, at: lifecycle.enter_phase(session, lease, phase, now=at))

    @classmethod
    def build(cls, settings: Settings) -> "Bench":
        hardware = detect(settings.device)
        return cls(
            settings=settings,
            database=Database.connect(settings.database),
            store=AdapterStore(settings.adapters),
            hardware=hardware,
            gpus=gpus_of(hardware),
            owner=str(ProcessId.current()),
            host=ProcessId.current().boot,
        )
