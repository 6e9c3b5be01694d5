"""The trainer's parent: kills its whole tree when the supervisor says so, or dies.

    supervisor ──pipe──► guard ──► trainer (its own session) ──► ranks, data loaders …

The supervisor holds the other end of the guard's standard input and writes a byte to it
now and then. When that end closes, be it on purpose, by a crash or by kill -9, or when it
stays silent too long (a supervisor that is stopped cannot renew its lease), the trainer's
group gets TERM, then KILL after the grace, and then every process that had escaped into a
session of its own: as a subreaper the guard inherits those. It exits as the trainer did
when nothing is left, or with SILENCED, since a trainer that was stopped for silence has done
nothing wrong; it dies by a signal when it cannot make sure that nothing is left, and then
the supervisor has to. Standard library only.

    python guard.py GRACE_SECONDS SILENCE_SECONDS FD[,FD...]|"" COMMAND [ARGUMENT ...]

The file descriptors are locks: the trainer inherits them, so that they are free only when
guard and trainer are gone.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36

POLL_SECONDS = 0.05
NOT_STARTED = 127  # as a shell says it
SILENCED = 124  # as timeout(1) says it: the supervisor was not heard of for too long


def main() -> int:
    grace, silence, command = float(sys.argv[1]), float(sys.argv[2]), sys.argv[4:]
    locks = [int(fd) for fd in sys.argv[3].split(",") if fd]
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        trainer = _start(command, locks)
    except OSError as error:
        print(error, file=sys.stderr)
        return NOT_STARTED
    was_silent = _watch(trainer, silence)
    _end(trainer, grace)
    return SILENCED if was_silent else _exit_code(trainer)


def _watch(trainer: subprocess.Popen[bytes], silence: float) -> bool:
    """Until it ends, or is to be ended; whether that is for the supervisor's silence."""
    heard = _now()
    while not _has_ended(trainer):
        if _now() - heard >= silence:
            return True
        said = _listen()
        if said == b"":
            return False
        heard = _now() if said else heard
    return False


def _start(command: Sequence[str], locks: Sequence[int]) -> subprocess.Popen[bytes]:
    guard = os.getpid()
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=locks,
        preexec_fn=lambda: _die_with(guard),
    )


def _die_with(guard: int) -> None:
    """Should the guard itself be killed, at least the trainer goes with it."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guard:  # it was killed just before
        os._exit(1)


def _listen() -> bytes | None:
    """What the supervisor has written: nothing yet is None, a closed pipe is empty."""
    readable, _, _ = select.select([sys.stdin.fileno()], [], [], POLL_SECONDS)
    return os.read(sys.stdin.fileno(), 4096) if readable else None


def _now() -> float:
    """Seconds, counted also while the machine sleeps: leases run out meanwhile too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _has_ended(trainer: subprocess.Popen[bytes]) -> bool:
    """Fetches on the way the orphans that have ended, which nobody else does."""
    with suppress(ChildProcessError):
        while (
            ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        ) is not None and ended.si_pid != trainer.pid:
            os.waitpid(ended.si_pid, 0)
    return trainer.poll() is not None


def _end(trainer: subprocess.Popen[bytes], grace: float) -> None:
    deadline = time.monotonic() + grace
    if not _has_ended(trainer):
        _signal_group(trainer.pid, signal.SIGTERM)
    while not _has_ended(trainer) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    _signal_group(trainer.pid, signal.SIGKILL)
    trainer.wait()
    _kill_orphans()


def _kill_orphans() -> None:
    """Until nothing is left: killing a parent hands its children over to us.

    Each with its group, which dies at once even when it forks faster than we look.
    """
    with suppress(ChildProcessError):  # the kernel's word that there is no child any more
        while True:
            for pid in _children():
                _signal_group(os.getpgid(pid), signal.SIGKILL)
                os.kill(pid, signal.SIGKILL)  # should it have left the group just now
            os.waitpid(-1, 0)
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass


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
    try:
        code = main()
    except BaseException:
        with suppress(OSError):  # the log's disk may be full
            traceback.print_exc()
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(code)
