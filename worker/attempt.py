"""One attempt at a run of any kind: claim, do what it asks for, finish."""

import errno
import logging
import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy.orm import Session

from finlora_core.db.models import Run
from finlora_core.db.session import now
from finlora_core.errors import LeaseLost
from finlora_core.evaluation.config import EvaluationConfig
from finlora_core.merging.config import MergeConfig
from finlora_core.runs import lifecycle, queries
from finlora_core.runs.config import RunConfig
from finlora_core.runs.kind import RunKind
from finlora_core.runs.lifecycle import ONE_GPU, Gpus, Lease
from finlora_core.runs.outcome import AttemptEnd, End
from finlora_core.runs.status import RunStatus
from finlora_core.settings import KILL_MARGIN
from finlora_core.training.diagnose import FailureCode
from finlora_core.training.files import RunFiles
from worker import survivors
from worker.bench import Bench
from worker.evaluate import perform_evaluation
from worker.facts import Attempt, Evaluation, Merge, Training
from worker.finish import NOTHING, Product, discard_unlisted, finish
from worker.heartbeat import Heartbeat
from worker.host import is_same_boot
from worker.merge import perform_merge
from worker.prepare import failed
from worker.supervise import AttemptEnded, Watch
from worker.training import perform_training

logger = logging.getLogger(__name__)


def work_until_idle(bench: Bench) -> None:
    """Train run after run until none can be claimed or the worker is shutting down."""
    while not bench.draining.is_set():
        free = bench.free_gpus()
        if (lease := claim(bench, free)) is None:
            return
        try:
            run_attempt(bench, lease, free)
        except Exception:  # the next run must not wait for what went wrong with this one
            logger.exception("run %s: attempt %d was given up", lease.run_id, lease.attempt)


def claim(bench: Bench, free: Sequence[str] = ()) -> Lease | None:
    if bench.gpus and not free:
        logger.warning("no run is claimed, every GPU is in use: %s", ", ".join(bench.gpus))
        return None
    gpus = Gpus(seen=len(bench.gpus), free=len(free)) if bench.gpus else ONE_GPU
    with bench.database.transaction() as session:
        ttl = timedelta(seconds=bench.settings.lease_seconds)
        return lifecycle.claim_next(
            session, worker=bench.owner, now=now(session), ttl=ttl, gpus=gpus
        )


def run_attempt(bench: Bench, lease: Lease, free: Sequence[str] = ()) -> None:
    """From a claimed run to its end: succeeded, failed, cancelled, or queued again.

    It trains on the first of the `free` GPUs, as many as it asks for.
    """
    logger.info("run %s: attempt %d", lease.run_id, lease.attempt)
    attempt = _load(bench, lease, free)
    try:
        status = _attempt(bench, attempt)
    except LeaseLost as error:
        logger.warning("run %s: %s", lease.run_id, error)
        discard_unlisted(bench, attempt)
        return
    finally:
        attempt.files.discard_scratch()
    if status is RunStatus.SUCCEEDED:
        attempt.run_files.discard_checkpoints()
    logger.info("run %s: %s", lease.run_id, status)


def _attempt(bench: Bench, attempt: Attempt) -> RunStatus:
    """Raises `LeaseLost`."""
    product = NOTHING
    with Heartbeat(bench.database, attempt.lease, attempt.files, bench.settings) as heartbeat:
        watch = Watch(heartbeat, bench.settings, bench.draining.is_set, attempt.seconds_left)
        try:
            # of an earlier attempt: its lease is over, and nobody else may be left to end it
            _end_survivors(attempt)
            product = _perform(bench, attempt, watch)
            end = AttemptEnd(end=End.COMPLETED)
        except AttemptEnded as early:
            end = early.end
        except Exception as error:
            end = _unexpected(error)
    return finish(bench, attempt, end, product)


def _perform(bench: Bench, attempt: Attempt, watch: Watch) -> Product:
    """Raises `AttemptEnded`, `LeaseLost`."""
    match attempt:
        case Training():
            return perform_training(bench, attempt, watch)
        case Evaluation():
            return perform_evaluation(bench, attempt, watch)
        case Merge():
            return perform_merge(bench, attempt, watch)
        case _:
            raise TypeError(type(attempt))


def _end_survivors(attempt: Attempt) -> None:
    """The run's lock would keep us out too, but what a trainer starts need not inherit it."""
    if not survivors.end(attempt.run_files.root, seconds=KILL_MARGIN):
        raise LeaseLost("an earlier attempt is still running here and cannot be ended")


def _load(bench: Bench, lease: Lease, free: Sequence[str] = ()) -> Attempt:
    with bench.database.reading() as session:
        run = queries.get_any_run(session, lease.run_id)
        attempts = queries.list_attempts(session, run.id)
        limit, spent = run.time_limit_seconds, queries.seconds_trained(session, run.id)
        facts: dict[str, Any] = {
            "lease": lease,
            "owner": run.owner,
            "name": run.name,
            "base_model": run.base_model,
            "dataset_sha256": run.dataset_sha256,
            "gpus": free[: run.gpus],
            "seconds_left": math.inf if limit is None else limit - spent,
            "run_files": RunFiles.of(bench.settings.runs, run.id),
            "earlier_here": [
                attempt.number
                for attempt in attempts
                if attempt.number < lease.attempt and is_same_boot(attempt.worker, bench.owner)
            ],
        }
        match run.kind:
            case RunKind.TRAINING:
                return _training(bench, session, run, facts)
            case RunKind.EVALUATION:
                return Evaluation(**facts, config=EvaluationConfig.model_validate(run.config))
            case RunKind.MERGE:
                return Merge(**facts, config=MergeConfig.model_validate(run.config))


def _training(bench: Bench, session: Session, run: Run, facts: Mapping[str, Any]) -> Training:
    ancestors = queries.ancestors(session, run)
    return Training(
        **facts,
        config=RunConfig.model_validate(run.config),
        dataset_rows=run.dataset_rows,
        validation_sha256=run.validation_sha256,
        ancestors=[RunFiles.of(bench.settings.runs, id) for id in ancestors],
    )


def _unexpected(error: Exception) -> AttemptEnd:
    if isinstance(error, LeaseLost):
        raise error
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return failed(FailureCode.DISK_FULL).end
    logger.exception("the worker failed")
    return failed(FailureCode.WORKER_ERROR, detail=f"{type(error).__name__}: {error}").end
