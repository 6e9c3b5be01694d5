"""A process that reads models for an attempt, under the guard, from its errand to its marker."""

from collections.abc import Sequence
from tempfile import TemporaryDirectory

from finlora_core.runs.outcome import AttemptEnd, End
from finlora_core.training.diagnose import FailureCode
from worker.bench import Bench
from worker.environment import trainer_environment
from worker.errand import Shape
from worker.facts import Attempt
from worker.launch import launch
from worker.supervise import AttemptEnded, Steps, Watch, supervise
from worker.train import failure_of


def run_errand(
    bench: Bench,
    attempt: Attempt,
    errand: Shape,
    command: Sequence[str],
    watch: Watch,
    otherwise: FailureCode,
) -> None:
    """Raises `LeaseLost`, and `AttemptEnded`: with `otherwise` where nothing tells why."""
    attempt.files.errand.write_text(errand.model_dump_json())
    with TemporaryDirectory(prefix="finlora-", ignore_cleanup_errors=True) as temporary:
        env = trainer_environment(
            attempt.files,
            temporary,
            checkpoint_seconds=bench.settings.checkpoint_seconds,
            gpus=attempt.gpus,
        )
        process = launch(bench, attempt, command, env)
        code = supervise(process, watch, Steps(attempt.files, 0))
    failure = failure_of(attempt.files, code, otherwise)
    if failure is not None:
        raise AttemptEnded(AttemptEnd(end=End.FAILED, failure=failure))
