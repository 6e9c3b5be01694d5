"""Start, watch and stop one guarded process. Knows nothing of runs or databases."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from finlora_core.settings import KILL_MARGIN

GUARD = Path(__file__).with_name("guard.py")


@dataclass(frozen=True)
class GuardedProcess:
    """A command under the guard: its whole tree ends with it, and with us."""

    guard: subprocess.Popen[bytes]
    grace: float

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
    ) -> Self:
        """Run `command` with nothing but `env` around it, its output appended to `log`.

        Without a `beat` for `silence` seconds the guard ends the tree by itself.
        """
        with log.open("ab") as output:
            guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARD), str(grace), str(silence), *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=dict(env),
                start_new_session=True,
            )
        return cls(guard, grace)

    def wait(self, seconds: float) -> int | None:
        """The exit code (128 + signal for a killed one), or None when it still runs."""
        try:
            code = self.guard.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        self._close_pipe()
        return code

    def beat(self) -> None:
        """Tell the guard that we are there."""
        assert self.guard.stdin is not None  # noqa: S101  # for mypy: it was opened as a pipe
        with suppress(BrokenPipeError):  # it has ended: `wait` will say so
            os.write(self.guard.stdin.fileno(), b".")

    def stop(self) -> None:
        """TERM to the whole tree, KILL after the grace; returns when it is gone."""
        self._close_pipe()
        try:
            self.guard.wait(self.grace + KILL_MARGIN)
        except subprocess.TimeoutExpired:
            self.guard.kill()  # the trainer follows: it is to die with its parent
            self.guard.wait()

    def _close_pipe(self) -> None:
        """What the guard takes for our end."""
        assert self.guard.stdin is not None  # noqa: S101  # for mypy: it was opened as a pipe
        self.guard.stdin.close()
