"""What a worker works with, built once at its start and passed inward."""

import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from finlora_core.adapters.store import AdapterStore
from finlora_core.db.session import Database, now
from finlora_core.settings import Settings
from finlora_core.training.axolotl import Hardware
from finlora_core.training.files import AttemptFiles
from worker.hardware import detect
from worker.trainer import axolotl_command

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bench:
    settings: Settings
    database: Database
    store: AdapterStore
    hardware: Hardware
    owner: str
    """Host and process, for people who wonder who holds a run."""
    train_command: Callable[[AttemptFiles], Sequence[str]] = axolotl_command
    draining: threading.Event = field(default_factory=threading.Event)
    """Set when the worker is to shut down: stop training, give the run back."""

    def tell(self, write: Callable[[Session, datetime], None]) -> None:
        """Write what is for people only: an outage of the database is not worth a training.

        Raises `LeaseLost` as every fenced write does.
        """
        try:
            with self.database.transaction() as session:
                write(session, now(session))
        except OperationalError as error:
            logger.warning("not recorded, the database is away: %s", error.orig)

    @classmethod
    def build(cls, settings: Settings) -> "Bench":
        return cls(
            settings=settings,
            database=Database.connect(settings.database),
            store=AdapterStore(settings.adapters),
            hardware=detect(settings.device),
            owner=f"{socket.gethostname()}:{os.getpid()}",
        )
