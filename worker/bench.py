"""What a worker works with, built once at its start and passed inward."""

import os
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from finlora_core.adapters.store import AdapterStore
from finlora_core.db.session import Database
from finlora_core.settings import Settings
from finlora_core.training.axolotl import Hardware
from finlora_core.training.files import AttemptFiles
from worker.hardware import detect
from worker.trainer import axolotl_command


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

    @classmethod
    def build(cls, settings: Settings) -> "Bench":
        return cls(
            settings=settings,
            database=Database.connect(settings.database),
            store=AdapterStore(settings.adapters),
            hardware=detect(settings.device),
            owner=f"{socket.gethostname()}:{os.getpid()}",
        )
