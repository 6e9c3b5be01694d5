"""Start a process of an attempt: guarded, and holding the locks that keep others out."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from finlora_core.errors import LeaseLost
from finlora_core.runs.outcome import AttemptEnd, End
from worker.bench import Bench
from worker.facts import Attempt
from worker.locks import Busy, hold
from worker.process import GuardedProcess
from worker.supervise import AttemptEnded


def launch(
    bench: Bench, attempt: Attempt, command: Sequence[str], env: Mapping[str, str]
) -> GuardedProcess:
    """The run's lock and those of its GPUs go to the new tree and end with it.

    Our own copies are closed at once: a worker that is stopped must not keep anybody out.
    Raises `LeaseLost` when an earlier attempt of the run still lives on this host, and
    `AttemptEnded` when another worker has just taken a GPU: then the run goes back.
    """
    with ExitStack() as ours:
        locks = [ours.enter_context(_run_lock(attempt))]
        locks += [ours.enter_context(_gpu_lock(bench.gpu_lock(gpu))) for gpu in attempt.gpus]
        return GuardedProcess.start(
            command,
            log=attempt.files.log,
            cwd=attempt.files.cwd,
            env=env,
            grace=bench.settings.stop_grace_seconds,
            silence=bench.settings.fence_seconds,
            locks=locks,
        )


@contextmanager
def _run_lock(attempt: Attempt) -> Iterator[int]:
    try:
        with hold(attempt.run_files.lock) as lock:
            yield lock
    except Busy as busy:
        raise LeaseLost(f"an earlier attempt is still running here: {busy}") from None


@contextmanager
def _gpu_lock(path: Path) -> Iterator[int]:
    try:
        with hold(path) as lock:
            yield lock
    except Busy:
        raise AttemptEnded(AttemptEnd(end=End.DRAINED)) from None
