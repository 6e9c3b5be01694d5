"""One attempt, readable as a list: claim, prepare, train, publish, finish."""

import errno
import logging
import math
from collections.abc import Sequence
from datetime import timedelta

from finlora_core.adapters.manifest import File
from finlora_core.db.session import now
from finlora_core.errors import LeaseLost
from finlora_core.runs import lifecycle, queries
from finlora_core.runs.config import RunConfig
from finlora_core.runs.lifecycle import ONE_GPU, Gpus, Lease
from finlora_core.runs.outcome import AttemptEnd, End
from finlora_core.runs.status import Phase, RunStatus
from finlora_core.settings import KILL_MARGIN
from finlora_core.training.diagnose import FailureCode
from finlora_core.training.files import RunFiles
from worker import survivors
from worker.bench import Bench
from worker.facts import Attempt
from worker.finish import discard_unlisted, finish
from worker.heartbeat import Heartbeat
from worker.host import is_same_boot
from worker.prepare import failed, prepare
from worker.publish import publish
from worker.supervise import AttemptEnded, Keeper, Watch
from worker.train import train

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
        discard_unlisted(bench, lease)
        return
    finally:
        attempt.files.discard_scratch()
    if status is RunStatus.SUCCEEDED:
        attempt.run_files.discard_checkpoints()
    logger.info("run %s: %s", lease.run_id, status)


def _attempt(bench: Bench, attempt: Attempt) -> RunStatus:
    """Raises `LeaseLost`."""
    files: Sequence[File] = ()
    with Heartbeat(bench.database, attempt.lease, attempt.files, bench.settings) as heartbeat:
        watch = Watch(heartbeat, bench.settings, bench.draining.is_set, attempt.seconds_left)
        try:
            # of an earlier attempt: its lease is over, and nobody else may be left to end it
            _end_survivors(attempt)
            _keep_what_they_saved(attempt, heartbeat)
            given = prepare(bench, attempt, watch)
            bench.enter_phase(attempt.lease, Phase.TRAINING)
            train(bench, attempt, given, watch)
            bench.enter_phase(attempt.lease, Phase.PUBLISHING)
            files = publish(bench, attempt)
            end = AttemptEnd(end=End.COMPLETED)
        except AttemptEnded as early:
            end = early.end
        except Exception as error:
            end = _unexpected(error)
    return finish(bench, attempt, end, files)


def _end_survivors(attempt: Attempt) -> None:
    """The run's lock would keep us out too, but what a trainer starts need not inherit it."""
    if not survivors.end(attempt.run_files.root, seconds=KILL_MARGIN):
        raise LeaseLost("an earlier attempt is still running here and cannot be ended")


def _keep_what_they_saved(attempt: Attempt, heartbeat: Heartbeat) -> None:
    """Checkpoints that earlier attempts finished after their worker had died.

    Since the boot only: what was written before a power cut need not have reached the disk.
    """
    for number in attempt.earlier_here:
        Keeper(attempt.run_files, number, attempt.lineage, heartbeat).look()


def _load(bench: Bench, lease: Lease, free: Sequence[str] = ()) -> Attempt:
    with bench.database.reading() as session:
        run = queries.get_any_run(session, lease.run_id)
        attempts = queries.list_attempts(session, run.id)
        limit, spent = run.time_limit_seconds, queries.seconds_trained(session, run.id)
        return Attempt(
            lease=lease,
            owner=run.owner,
            name=run.name,
            config=RunConfig.model_validate(run.config),
            dataset_sha256=run.dataset_sha256,
            dataset_rows=run.dataset_rows,
            validation_sha256=run.validation_sha256,
            gpus=free[: run.gpus],
            seconds_left=math.inf if limit is None else limit - spent,
            run_files=RunFiles.of(bench.settings.runs, run.id),
            ancestors=[
                RunFiles.of(bench.settings.runs, id) for id in queries.ancestors(session, run)
            ],
            earlier_here=[
                attempt.number
                for attempt in attempts
                if attempt.number < lease.attempt and is_same_boot(attempt.worker, bench.owner)
            ],
        )


def _unexpected(error: Exception) -> AttemptEnd:
    if isinstance(error, LeaseLost):
        raise error
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return failed(FailureCode.DISK_FULL).end
    logger.exception("the worker failed")
    return failed(FailureCode.WORKER_ERROR, detail=f"{type(error).__name__}: {error}").end
