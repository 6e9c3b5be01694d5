"""The trainer's parent: kills its whole tree when the supervisor says so, or dies.

    supervisor ──pipe──► guard ──► trainer (its own session) ──► ranks, data loaders …

The supervisor holds the other end of the guard's standard input. When that closes, be it
on purpose, by a crash or by kill -9, the trainer's group gets TERM, then KILL after the
grace, and then every process that had escaped into a session of its own: as a subreaper
the guard inherits those. It exits as the trainer did. Standard library only.

    python guard.py GRACE_SECONDS COMMAND [ARGUMENT ...]
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
    grace, command = float(sys.argv[1]), sys.argv[2:]
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    trainer = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        # should the guard itself be killed, at least the trainer goes with it
        preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
    )
    while trainer.poll() is None and not _supervisor_is_gone():
        pass
    _end(trainer, grace)
    return _exit_code(trainer)


def _supervisor_is_gone() -> bool:
    """True once the pipe is closed; waits a moment otherwise."""
    readable, _, _ = select.select([sys.stdin.buffer], [], [], POLL_SECONDS)
    return bool(readable) and not os.read(sys.stdin.fileno(), 1)


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
