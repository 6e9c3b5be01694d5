"""Start, watch and stop one guarded process. Knows nothing of runs or databases."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from finlora_core.settings import KILL_MARGIN
from finlora_core.training.files import ATTEMPT_DIR
from worker import survivors

GUARD = Path(__file__).with_name("guard.py")


@dataclass
class GuardedProcess:
    """A command under the guard: its whole tree ends with it, and with us."""

    guard: subprocess.Popen[bytes]
    grace: float
    folder: Path | None
    """The attempt's, which the tree carries in its environment."""
    gone: bool = False
    """Whether the tree has been seen to be empty. Until then the run may still be training,
    and only another `stop` can tell."""

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        *,
        log: Path,
        cwd: Path,
        env: Mapping[str, str],
        grace: float,
        silence: float,
        locks: Sequence[int] = (),
    ) -> Self:
        """Run `command` with nothing but `env` around it, its output appended to `log`.

        Without a `beat` for `silence` seconds the guard ends the tree by itself. `locks` are
        descriptors of held locks: guard and trainer inherit them, so they outlive the caller.
        """
        options = [str(grace), str(silence), ",".join(map(str, locks))]
        with log.open("ab") as output:
            guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARD), *options, *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=dict(env),
                start_new_session=True,
                pass_fds=locks,
            )
        os.set_blocking(_pipe(guard).fileno(), False)  # a guard that is stopped reads nothing
        return cls(guard, grace, Path(env[ATTEMPT_DIR]) if ATTEMPT_DIR in env else None)

    def wait(self, seconds: float) -> int | None:
        """The exit code (128 + signal for a killed one), or None when it still runs.

        Negative when it was the guard that was killed. What that has left behind is ended
        first, which may take KILL_MARGIN more; see `gone`.
        """
        try:
            code = self.guard.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        self._close_pipe()
        self._make_sure()
        return code

    def beat(self) -> None:
        """Tell the guard that we are there. Never blocks."""
        pipe = _pipe(self.guard)
        if not pipe.closed:
            # it has ended: `wait` will say so; it is stopped: enough beats wait for it
            with suppress(BrokenPipeError, BlockingIOError):
                os.write(pipe.fileno(), b".")

    def stop(self) -> None:
        """TERM to the whole tree, KILL after the grace; returns when it is gone.

        Or after KILL_MARGIN more: then `gone` is false, and it may be called again.
        """
        self._close_pipe()
        self.guard.send_signal(signal.SIGCONT)
        try:
            self.guard.wait(self.grace + KILL_MARGIN / 2)
        except subprocess.TimeoutExpired:
            self.guard.kill()  # the trainer follows: it is to die with its parent
        self._make_sure()

    def _make_sure(self) -> None:
        """A guard that ends by itself leaves nothing; what another leaves is ended here."""
        if not self.gone:
            self.gone = self._ended_orderly() or self._end_survivors(KILL_MARGIN / 2)

    def _ended_orderly(self) -> bool:
        code = self.guard.poll()
        return code is not None and code >= 0

    def _end_survivors(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        with suppress(subprocess.TimeoutExpired):
            self.guard.wait(seconds)
        if self.folder is None:  # nothing to find them by
            return False
        return survivors.end(self.folder, seconds=deadline - time.monotonic())

    def _close_pipe(self) -> None:
        """What the guard takes for our end."""
        _pipe(self.guard).close()


def _pipe(guard: subprocess.Popen[bytes]) -> IO[bytes]:
    assert guard.stdin is not None  # noqa: S101  # for mypy: it was opened as a pipe
    return guard.stdin
