"""Find and end what is left of attempts whose guard was itself killed.

The guard ends its tree by itself. When somebody kills the guard, the trainer follows, but
whatever had left for a session of its own belongs to nobody any more. Every process of an
attempt carries the attempt's folder in its environment, the guard included, and so do its
children: by that they are found. One that was started with another environment is not;
nor is one of another user, which is not ours to look at.
"""

import os
import signal
import time
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import NamedTuple

from finlora_core.training.files import ATTEMPT_DIR
from worker.host import read_stat

POLL_SECONDS = 0.02
ROUNDS = 10
MOST_BYTES = 256 * 1024

_MARK = f"{ATTEMPT_DIR}=".encode()
_KERNEL_THREAD = 0x00200000  # PF_KTHREAD in linux/sched.h


class _Process(NamedTuple):
    """A pid alone may be somebody else's by the time it is killed."""

    pid: int
    ticks: int
    group: int

    @classmethod
    def alive(cls, pid: int) -> "_Process | None":
        stat = read_stat(pid)
        return None if stat is None or stat.has_ended else cls(pid, stat.ticks, stat.group)

    @property
    def is_alive(self) -> bool:
        now = self.alive(self.pid)
        return now is not None and now.ticks == self.ticks


class _Look(NamedTuple):
    found: set[_Process]
    is_whole: bool = True
    """False when processes were started faster than we could look at them."""
    saw_change: bool = False
    """Some could not be told, amid exec or exit. An exec soon ends; whatever exits for long
    has no memory any more and does nothing to a run."""


def find(folder: Path) -> list[int]:
    """The pids of the living processes of an attempt's folder, or of all below a run's.

    `folder` as the service writes it: absolute, symbolic links resolved. Never this process.
    One that is amid exec may be missed; `end` looks again.
    """
    return sorted(process.pid for process in _look(folder).found)


def end(folder: Path, *, seconds: float) -> bool:
    """Kill them all, however they fork; whether within `seconds` none was left."""
    deadline = time.monotonic() + seconds
    seen: set[_Process] = set()
    while True:
        look = _look(folder, deadline)
        # one that exits shows its environment no more, long before it has freed its GPU
        seen = {process for process in seen | look.found if process.is_alive}
        _kill(seen)
        is_empty = look.is_whole and not (look.found or seen)
        if (is_empty and not look.saw_change) or time.monotonic() >= deadline:
            return is_empty
        time.sleep(POLL_SECONDS)


def _kill(processes: set[_Process]) -> None:
    """Each with its group, which dies at once even when it forks faster than we look."""
    pids = {process.pid for process in processes}
    groups = {process.group for process in processes} - {0, 1, os.getpgrp()}
    for group in groups:
        if group in pids or _Process.alive(group) is None:  # nobody else leads it
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _look(folder: Path, deadline: float = inf) -> _Look:
    """Looks also at what was started during the look: its parent may have ended meanwhile."""
    looked_at = {os.getpid()}
    found: set[_Process] = set()
    saw_change = False
    for round in range(ROUNDS):
        fresh = _pids() - looked_at
        if not fresh:
            return _Look(found, saw_change=saw_change)
        if round > 0 and time.monotonic() > deadline:
            break
        looked_at |= fresh
        for pid in sorted(fresh, reverse=True):  # the newest first: it may be the briefest
            environment = _environment(pid)
            if environment is not None and _is_of(folder, environment):
                process = _Process.alive(pid)
                found |= {process} if process else set()
            saw_change |= environment == b"" and _is_changing(pid)
    return _Look(found, is_whole=False, saw_change=saw_change)


def _pids() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdecimal()}


def _environment(pid: int) -> bytes | None:
    """Empty for a process without memory of its own; None when it is not ours to read."""
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
            return file.read(MOST_BYTES)  # at once: an exec between two reads would cut it off
    except PermissionError:
        return None
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _is_of(folder: Path, environment: bytes) -> bool:
    if _MARK not in environment:  # most processes
        return False
    marks = [entry for entry in environment.split(b"\0") if entry.startswith(_MARK)]
    return any(
        Path(os.fsdecode(mark.removeprefix(_MARK))).is_relative_to(folder) for mark in marks
    )


def _is_changing(pid: int) -> bool:
    """Whether it was amid exec or exit when it showed no environment: look again.

    Otherwise it really has none.
    """
    stat = read_stat(pid)
    if stat is None or stat.has_ended or stat.flags & _KERNEL_THREAD:
        return False
    start, end = stat.environment
    return end == 0 or start < end
