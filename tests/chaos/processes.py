"""Guards, trainers and what they leave behind, found in /proc.

Only processes of one home folder are ever looked at: those that have an attempt's folder below it
in their environment, or the folder itself on their command line or as their working directory.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.chaos.trainer import STRAGGLER

_VARIABLE = b"FINLORA_ATTEMPT_DIR="


class Role(StrEnum):
    GUARD = "guard"
    TRAINER = "trainer"
    STRAGGLER = "straggler"


@dataclass(frozen=True)
class Found:
    """A process of an attempt."""

    pid: int
    parent: int
    role: Role
    run_id: str
    attempt: int


def of_attempts(home: Path) -> Sequence[Found]:
    """Every process that belongs to an attempt of a run below `home`."""
    return [found for pid in _pids() if (found := _look(pid, home)) is not None]


def leftovers(home: Path) -> Sequence[str]:
    """What still lives though everything was stopped, in words."""
    return [_describe(pid) for pid in _pids() if _belongs(pid, home)]


def leftover_pids(home: Path) -> Sequence[int]:
    return [pid for pid in _pids() if _belongs(pid, home)]


class Handle:
    """One process, for sure: its number may be given to another, this handle is not."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.pidfd_open(pid)

    @classmethod
    def of(cls, found: Found, home: Path) -> "Handle | None":
        """None when it has ended meanwhile."""
        try:
            handle = cls(found.pid)
        except ProcessLookupError:
            return None
        return handle if _look(found.pid, home) == found else None

    def send(self, sig: signal.Signals) -> bool:
        """Whether it was there to get it."""
        try:
            signal.pidfd_send_signal(self._fd, sig)
        except ProcessLookupError:
            return False
        return True

    def __del__(self) -> None:
        with suppress(OSError, AttributeError):
            os.close(self._fd)


def _pids() -> Iterator[int]:
    own = os.getpid()
    return (int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != own)


def _look(pid: int, home: Path) -> Found | None:
    try:
        folder = _attempt_folder(pid, home)
        if folder is None:
            return None
        number = int(folder.name.removeprefix("attempt-"))
        return Found(pid, _parent(pid), _role(pid), folder.parent.name, number)
    except OSError:  # it has ended
        return None


def _attempt_folder(pid: int, home: Path) -> Path | None:
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    values = [entry for entry in environment if entry.startswith(_VARIABLE)]
    if not values:
        return None
    folder = Path(os.fsdecode(values[0].removeprefix(_VARIABLE)))
    return folder if folder.is_relative_to(home) else None


def _parent(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    if stat.rsplit(")", 1)[1].split()[0] in "ZX":
        raise ProcessLookupError(pid)
    return int(stat.rsplit(")", 1)[1].split()[1])


def _role(pid: int) -> Role:
    if Path(f"/proc/{pid}/comm").read_text().strip() == STRAGGLER:
        return Role.STRAGGLER
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return Role.GUARD if any(word.endswith(b"guard.py") for word in words) else Role.TRAINER


def _belongs(pid: int, home: Path) -> bool:
    try:
        if _attempt_folder(pid, home) is not None:
            return True
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        cwd = Path(os.readlink(f"/proc/{pid}/cwd"))
        return os.fsencode(home) in command or cwd.is_relative_to(home)
    except OSError:  # it has ended, or it is not ours to look at
        return False


def _describe(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        comm = Path(f"/proc/{pid}/comm").read_text().strip()
        return f"{pid} [{comm}, child of {_parent(pid)}] {words.decode(errors='replace')}"
    except OSError:
        return f"{pid} (ended meanwhile)"
