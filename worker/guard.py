"""The trainer's parent: kills its whole tree when the supervisor says so, or dies.

    supervisor ──pipe──► guard ──► trainer (its own session) ──► ranks, data loaders …

The supervisor holds the other end of the guard's standard input and writes a byte to it
now and then. When that end closes, be it on purpose, by a crash or by kill -9, or when it
stays silent too long (a supervisor that is stopped cannot renew its lease), the trainer's
group gets TERM, then KILL after the grace, and then every process that had escaped into a
session of its own: as a subreaper the guard inherits those. It exits as the trainer did.
Standard library only.

    python guard.py GRACE_SECONDS SILENCE_SECONDS COMMAND [ARGUMENT ...]
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36

POLL_SECONDS = 0.05


def main() -> int:
    grace, silence, command = float(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    trainer = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        # should the guard itself be killed, at least the trainer goes with it
        preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
    )
    heard = _now()
    while trainer.poll() is None and _now() - heard < silence:
        said = _listen()
        if said == b"":
            break
        heard = _now() if said else heard
    _end(trainer, grace)
    return _exit_code(trainer)


def _listen() -> bytes | None:
    """What the supervisor has written: nothing yet is None, a closed pipe is empty."""
    readable, _, _ = select.select([sys.stdin.fileno()], [], [], POLL_SECONDS)
    return os.read(sys.stdin.fileno(), 4096) if readable else None


def _now() -> float:
    """Seconds, counted also while the machine sleeps: leases run out meanwhile too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _end(trainer: subprocess.Popen[bytes], grace: float) -> None:
    deadline = time.monotonic() + grace
    if trainer.poll() is None:
        _signal_group(trainer.pid, signal.SIGTERM)
    while trainer.poll() is None and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    _signal_group(trainer.pid, signal.SIGKILL)
    trainer.wait()
    _kill_orphans()


def _kill_orphans() -> None:
    """Until nothing is left: killing a parent hands its children over to us."""
    while children := _children():
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in children:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(pid) for pid in file.read().split()]


def _signal_group(group: int, sig: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, sig)


def _exit_code(trainer: subprocess.Popen[bytes]) -> int:
    """As a shell gives it: 128 + the signal's number for a killed trainer."""
    code = trainer.returncode
    return code if code >= 0 else 128 - code


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main())
