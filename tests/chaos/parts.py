"""Redis, the API and the workers, each a process of its own that can be killed and comes back."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

from finlora_core.settings import Settings
from finlora_core.stack import redis_command
from tests.chaos.processes import Handle
from tests.chaos.traits import PLAN, Plan

REPOSITORY = Path(__file__).parent.parent.parent
READY_SECONDS = 60
STOP_SECONDS = 30
"""How long parts get to leave by themselves, all of them together."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Part:
    """One of the service's processes. Start it from the main thread only: it dies with that."""

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str], home: Path
    ) -> None:
        self.name = name
        self._command = command
        self._env = env
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None
        self._handle: Handle | None = None

    @property
    def is_up(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> Path:
        return self._home / "logs" / f"{self.name}.log"

    def start(self) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._home,
                env=self._env,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        self._handle = Handle(self._process.pid)

    def send(self, sig: signal.Signals) -> bool:
        """Whether it was there to get it."""
        return self.is_up and self._handle is not None and self._handle.send(sig)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def end(self, seconds: float) -> bool:
        """TERM; when it does not leave, a look at its stacks (in its log) and KILL.

        Whether it left by itself.
        """
        self.send(signal.SIGTERM)
        if self._waits(seconds):
            return True
        self.send(signal.SIGABRT)
        self._waits(1)
        self.kill()
        return False

    def _waits(self, seconds: float) -> bool:
        """Whether it ends within that time."""
        try:
            if self._process is not None:
                self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


class Parts:
    """The service, less its database."""

    def __init__(self, settings: Settings, plan: Plan, *, workers: int) -> None:
        self.settings = settings
        home = settings.home
        env = {**os.environ, **settings.environment(), PLAN: plan.to_json()}
        env |= {"PYTHONPATH": str(REPOSITORY), "PYTHONFAULTHANDLER": "1"}
        self.redis = Part("redis", redis_command(settings.redis_socket), env, home)
        self.api = Part("api", _api_command(settings), env, home)
        names = [f"worker-{number}" for number in range(1, workers + 1)]
        self.workers = [Part(name, _worker_command(name), env, home) for name in names]

    @property
    def all(self) -> Sequence[Part]:
        return [self.redis, self.api, *self.workers]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.port}"

    def start(self) -> None:
        for part in self.all:
            part.start()
        deadline = time.monotonic() + READY_SECONDS
        while not self._is_ready():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the service did not come up: see {self.api.log.parent}")
            time.sleep(0.1)

    def stop(self) -> Sequence[str]:
        """The workers first; the names of those that had to be killed."""
        for part in self.workers:
            part.send(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        order = [*self.workers, self.api, self.redis]
        return [part.name for part in order if not part.end(max(1, deadline - time.monotonic()))]

    def _is_ready(self) -> bool:
        try:
            answer = httpx.get(f"{self.url}/readyz", timeout=5)
            return answer.status_code == 200 and answer.json()["workers"] == len(self.workers)
        except (httpx.TransportError, ValueError, KeyError):
            return False


def _api_command(settings: Settings) -> Sequence[str]:
    return [
        sys.executable, "-m", "uvicorn", "api.asgi:app", "--host", settings.host,
        "--port", str(settings.port), "--no-access-log", "--log-level", "warning",
    ]  # fmt: skip


def _worker_command(name: str) -> Sequence[str]:
    return [
        sys.executable, "-m", "celery", "-A", "tests.chaos.worker_app", "worker",
        "--hostname", f"{name}@chaos", "--loglevel", "INFO",
        "--without-gossip", "--without-mingle",
    ]  # fmt: skip


def _die_with_parent() -> None:
    """By SIGKILL: a part may be stopped when the harness ends too early."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
