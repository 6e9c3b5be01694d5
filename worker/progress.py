"""How far an attempt's process is, in steps of one kind."""

import time

from finlora_core.training.files import AttemptFiles
from worker.tail import write_json


class Progress:
    def __init__(self, files: AttemptFiles, steps: int) -> None:
        self._files = files
        self._all = steps
        self._done = 0
        self._started = time.monotonic()

    def advance(self, steps: int = 1) -> None:
        self._done += steps
        pace = (time.monotonic() - self._started) / max(1, self._done)  # seconds a step
        progress = {
            "step": self._done,
            "max_steps": self._all,
            "percent": round(100 * self._done / max(1, self._all), 1),
            "eta_seconds": round(pace * (self._all - self._done), 1),
        }
        write_json(self._files.progress, progress)
