"""Which process of which machine holds a run, and whether it is certainly dead.

A worker that starts finds the runs of its dead predecessor on the same host by this and
takes them back at once; whatever is unsure is left to the lease, which runs out by itself.
"""

import os
import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MACHINE_ID = Path("/etc/machine-id")

SHOWN = 8
"""Hexadecimal digits kept of the ids of boots and machines."""

INITIAL_NAMESPACE = 0xEFFFFFFC
"""Of pids outside every container: PROC_PID_INIT_INO in linux/proc_ns.h."""

_WRITTEN = re.compile(
    r"(?P<host>[^:\s]+):(?P<pid>\d+):(?P<boot>[0-9a-f]{8}|-):(?P<namespace>\d+)"
    r":(?P<ticks>\d+):(?P<machine>[0-9a-f]{8}|-)",
    re.ASCII,
)


class ProcessStat(NamedTuple):
    """What /proc/<pid>/stat says, as far as anybody here asks."""

    state: str
    group: int
    flags: int
    ticks: int
    """When it started, in clock ticks since the boot: tells it from a later one of its pid."""
    environment: tuple[int, int]
    """Where its memory holds that, from and to; zeros while it has no memory."""

    @property
    def has_ended(self) -> bool:
        """A zombie runs no more and only waits to be fetched."""
        return self.state in "ZX"


def read_stat(pid: int) -> ProcessStat | None:
    """None when there is no such process, or /proc hides it from us."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # behind the command's name, which may hold spaces and parentheses; the first is field 3
    fields = text.rpartition(")")[2].split()
    return ProcessStat(
        state=fields[0],
        group=int(fields[2]),
        flags=int(fields[6]),
        ticks=int(fields[19]),
        environment=(int(fields[47]), int(fields[48])),
    )


@dataclass(frozen=True)
class ProcessId:
    """One process for ever: neither a restart nor a reboot makes another one equal to it."""

    host: str
    machine: str
    """The first digits of /etc/machine-id; "-" when there is none, as in most containers."""
    boot: str
    namespace: int
    """Inode of the pid namespace: a container's pid 7 is not the host's."""
    pid: int
    ticks: int

    @classmethod
    def current(cls) -> "ProcessId":
        pid = os.getpid()
        stat = read_stat(pid)
        return cls(
            host=socket.gethostname(),
            machine=_id_in(MACHINE_ID),
            boot=_id_in(BOOT_ID),
            namespace=os.stat("/proc/self/ns/pid").st_ino,
            pid=pid,
            ticks=stat.ticks if stat else 0,
        )

    def __str__(self) -> str:
        host, pid, boot, namespace = self.host, self.pid, self.boot, self.namespace
        return f"{host}:{pid}:{boot}:{namespace}:{self.ticks}:{self.machine}"

    @classmethod
    def parse(cls, written: str) -> "ProcessId | None":
        """None for what `str` has not made."""
        match = _WRITTEN.fullmatch(written)
        if match is None:
            return None
        return cls(
            host=match["host"],
            machine=match["machine"],
            boot=match["boot"],
            namespace=int(match["namespace"]),
            pid=int(match["pid"]),
            ticks=int(match["ticks"]),
        )

    def is_dead(self, here: "ProcessId") -> bool:
        """Whether it certainly is, as seen by `here`, the current process."""
        if "-" in (self.boot, here.boot):
            return False
        if self.boot != here.boot:
            return self._is_of_the_same_machine_as(here)
        return self.namespace == here.namespace and not self._may_live()

    def _is_of_the_same_machine_as(self, here: "ProcessId") -> bool:
        """Images give the same machine id to containers on several hosts: those are unsure."""
        is_known = self.machine != "-" and self.namespace == here.namespace == INITIAL_NAMESPACE
        return is_known and (self.machine, self.host) == (here.machine, here.host)

    def _may_live(self) -> bool:
        stat = read_stat(self.pid)
        if stat is None:
            return _has_process(self.pid)
        return stat.ticks == self.ticks and not stat.has_ended


def is_same_boot(worker: str, other: str) -> bool:
    """Whether both are processes of one machine, which has not been restarted in between."""
    one, two = ProcessId.parse(worker), ProcessId.parse(other)
    return one is not None and two is not None and one.boot == two.boot != "-"


def _has_process(pid: int) -> bool:
    """Asks past /proc, which can be mounted so that it hides the processes of others."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _id_in(file: Path) -> str:
    """The id's first digits, or "-"."""
    found = ""
    with suppress(OSError):
        found = file.read_text().strip()[:SHOWN]
    return found if re.fullmatch(r"[0-9a-f]{8}", found) else "-"
