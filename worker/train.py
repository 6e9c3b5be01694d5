"""Axolotl under the guard: from the newest checkpoint that loads to the completion marker."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from tempfile import TemporaryDirectory

from finlora_core.runs import lifecycle
from finlora_core.runs.outcome import AttemptEnd, End, Failure
from finlora_core.runs.status import Phase
from finlora_core.training import checkpoints
from finlora_core.training.axolotl import TrainingInput, render, to_yaml
from finlora_core.training.checkpoints import Checkpoint
from finlora_core.training.diagnose import FailureCode, diagnose, failure
from finlora_core.training.files import AttemptFiles, RunFiles
from worker.bench import Bench
from worker.environment import trainer_environment
from worker.errand import Judging
from worker.facts import Training
from worker.launch import launch
from worker.supervise import AttemptEnded, Keeper, Steps, Watch, supervise_training
from worker.tail import read_json

logger = logging.getLogger(__name__)

LOG_TAIL_BYTES = 64 * 1024


class DidNotLoad(Exception):
    """A training that was to go on from a checkpoint ended before its first step."""


def train(bench: Bench, attempt: Training, given: TrainingInput, watch: Watch) -> None:
    """From the newest checkpoint that loads, or from the beginning."""
    for run, checkpoint in _checkpoints(attempt):
        try:
            return train_from(bench, attempt, checkpoint, given, watch)
        except DidNotLoad:
            logger.warning("run %s: %s did not load", attempt.lease.run_id, checkpoint)
            # fenced: what a successor may be reading is not ours to move
            bench.enter_phase(attempt.lease, Phase.TRAINING)
            checkpoints.set_aside(run, checkpoint)
            attempt.files.forget()
    return train_from(bench, attempt, None, given, watch)


def train_from(
    bench: Bench,
    attempt: Training,
    checkpoint: Checkpoint | None,
    given: TrainingInput,
    watch: Watch,
) -> None:
    """Axolotl under the guard. Success is the completion marker, not exit code 0 alone.

    Raises `DidNotLoad` when it ends without a step, for no reason but the checkpoint.
    """
    given = replace(given, resume_from=str(checkpoint.path) if checkpoint else None)
    _write_yaml(bench, attempt, given, checkpoint.step if checkpoint else None)
    _write_judging(attempt)
    steps = Steps(attempt.files, checkpoint.step if checkpoint else 0)
    keeper = Keeper(attempt.run_files, attempt.lease.attempt, attempt.lineage, watch.heartbeat)
    with TemporaryDirectory(prefix="finlora-", ignore_cleanup_errors=True) as temporary:
        env = trainer_environment(
            attempt.files,
            temporary,
            checkpoint_seconds=bench.settings.checkpoint_seconds,
            gpus=attempt.gpus,
        )
        command = bench.train_command(attempt.files, attempt.config.gpus)
        process = launch(bench, attempt, command, env)
        code = supervise_training(process, watch, steps, keeper)
    steps.look()
    failed = failure_of(attempt.files, code)
    if failed is None:
        return
    if failed.is_retried and watch.is_draining():
        # whoever stops this worker has stopped its trainer too: a host that shuts down does
        raise AttemptEnded(AttemptEnd(end=End.DRAINED))
    if checkpoint and failed.code == FailureCode.TRAINING_ERROR and not steps.has_moved:
        raise DidNotLoad
    raise AttemptEnded(AttemptEnd(end=End.FAILED, failure=failed))


def _checkpoints(attempt: Training) -> Iterator[tuple[RunFiles, Checkpoint]]:
    """The newest first; the run's own before those of the runs that it tries again."""
    for run in (attempt.run_files, *attempt.ancestors):
        while (checkpoint := checkpoints.newest(run, attempt.lineage)) is not None:
            yield run, checkpoint


def _write_yaml(bench: Bench, attempt: Training, given: TrainingInput, step: int | None) -> None:
    yaml = to_yaml(render(attempt.config, given, attempt.files, bench.hardware))
    attempt.files.config.write_text(yaml)
    bench.tell(
        lambda session, at: lifecycle.record_start(
            session, attempt.lease, yaml=yaml, resumed_from=step, now=at
        )
    )


def _write_judging(attempt: Training) -> None:
    """What Axolotl's YAML has no key for."""
    config = attempt.config
    if config.evaluation_task is not None:
        judging = Judging(task=config.evaluation_task, patience=config.early_stopping_patience)
        attempt.files.judging.write_text(judging.model_dump_json())


def failure_of(
    files: AttemptFiles, code: int, otherwise: FailureCode = FailureCode.TRAINING_ERROR
) -> Failure | None:
    """Why a process that ended by itself is no success; None when it is one."""
    log = _log_tail(files)
    refused = read_json(files.failure)
    if refused is not None:
        return failure(FailureCode(refused["code"]), log, refused.get("detail", ""))
    if code != 0 or not files.completed.is_file():
        return diagnose(code, log, otherwise)
    return None


def _log_tail(files: AttemptFiles) -> str:
    with files.log.open("rb") as log:
        log.seek(max(0, files.log.stat().st_size - LOG_TAIL_BYTES))
        return log.read().decode(errors="replace")
