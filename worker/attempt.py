"""One attempt, readable as a list: claim, prepare, train, publish, finish."""

import errno
import logging
import time
from collections.abc import Sequence
from datetime import timedelta
from tempfile import TemporaryDirectory

from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError

from finlora_core.adapters import registry
from finlora_core.adapters.manifest import File
from finlora_core.db.session import now
from finlora_core.errors import LeaseLost, NotFound
from finlora_core.runs import lifecycle, queries
from finlora_core.runs.config import RunConfig
from finlora_core.runs.lifecycle import Lease
from finlora_core.runs.outcome import AttemptEnd, End
from finlora_core.runs.status import Phase, RunStatus
from finlora_core.training.diagnose import FailureCode, diagnose
from finlora_core.training.files import AttemptFiles
from worker.bench import Bench
from worker.environment import trainer_environment
from worker.prepare import Attempt, failed, prepare
from worker.process import GuardedProcess
from worker.publish import publish
from worker.supervise import AttemptEnded, Heartbeat, boottime, supervise
from worker.tail import read_json

logger = logging.getLogger(__name__)

LOG_TAIL_BYTES = 64 * 1024


def work_until_idle(bench: Bench) -> None:
    """Train run after run until none can be claimed or the worker is shutting down."""
    while not bench.draining.is_set() and (lease := claim(bench)) is not None:
        try:
            run_attempt(bench, lease)
        except Exception:  # the next run must not wait for what went wrong with this one
            logger.exception("run %s: attempt %d was given up", lease.run_id, lease.attempt)


def claim(bench: Bench) -> Lease | None:
    with bench.database.transaction() as session:
        ttl = timedelta(seconds=bench.settings.lease_seconds)
        return lifecycle.claim_next(session, owner=bench.owner, now=now(session), ttl=ttl)


def run_attempt(bench: Bench, lease: Lease) -> None:
    """From a claimed run to its end: succeeded, failed, cancelled, or queued again."""
    logger.info("run %s: attempt %d", lease.run_id, lease.attempt)
    attempt = _load(bench, lease)
    files: Sequence[File] = ()
    try:
        with Heartbeat(bench.database, lease, attempt.files, bench.settings) as heartbeat:
            try:
                prepare(bench, attempt, heartbeat)
                train(bench, attempt, heartbeat)
                files = _publish(bench, attempt)
                end = AttemptEnd(end=End.COMPLETED)
            except AttemptEnded as early:
                end = early.end
            except Exception as error:
                end = _unexpected(error)
        status = _finish(bench, attempt, end, files)
    except LeaseLost as error:
        logger.warning("run %s: %s", lease.run_id, error)
        _discard_unlisted(bench, lease)
        return
    finally:
        attempt.files.discard_scratch()
    logger.info("run %s: %s", lease.run_id, status)


def train(bench: Bench, attempt: Attempt, heartbeat: Heartbeat) -> None:
    """Axolotl under the guard. Success is the completion marker, not exit code 0 alone."""
    _enter(bench, attempt, Phase.TRAINING)
    with TemporaryDirectory(prefix="finlora-", ignore_cleanup_errors=True) as temporary:
        process = GuardedProcess.start(
            bench.train_command(attempt.files),
            log=attempt.files.log,
            cwd=attempt.files.cwd,
            env=trainer_environment(attempt.files, temporary),
            grace=bench.settings.stop_grace_seconds,
            silence=bench.settings.fence_seconds,
        )
        code = supervise(process, heartbeat, bench.draining.is_set)
    refused = read_json(attempt.files.failure)
    log = _log_tail(attempt.files)
    if refused is not None:
        raise failed(FailureCode(refused["code"]), log=log, detail=refused.get("detail", ""))
    if code != 0 or not attempt.files.completed.is_file():
        raise AttemptEnded(AttemptEnd(end=End.FAILED, failure=diagnose(code, log)))


def _load(bench: Bench, lease: Lease) -> Attempt:
    with bench.database.reading() as session:
        run = queries.get_run(session, lease.run_id)
        files = AttemptFiles.of(bench.settings.runs, run.id, lease.attempt)
        config = RunConfig.model_validate(run.config)
        return Attempt(lease, run.name, config, run.dataset_sha256, run.dataset_rows, files)


def _publish(bench: Bench, attempt: Attempt) -> Sequence[File]:
    _enter(bench, attempt, Phase.PUBLISHING)
    return publish(bench, attempt)


def _enter(bench: Bench, attempt: Attempt, phase: Phase) -> None:
    bench.tell(lambda session, at: lifecycle.enter_phase(session, attempt.lease, phase, now=at))


def _finish(bench: Bench, attempt: Attempt, end: AttemptEnd, files: Sequence[File]) -> RunStatus:
    """One transaction: the run's status and, with it, the adapter's row. Then the link."""
    deadline = boottime() + bench.settings.fence_seconds
    while True:
        try:
            status = _try_finish(bench, attempt, end, files)
            break
        except (OperationalError, IntegrityError):
            # the database is away, or another run has just taken the version's number
            if boottime() > deadline:
                raise LeaseLost("the database did not come back in time") from None
            time.sleep(1)
    if status is RunStatus.SUCCEEDED:
        _link_newest(bench, attempt.config.variant, attempt.name)
    return status


def _link_newest(bench: Bench, variant: str, name: str) -> None:
    """The run has succeeded by now: a link that cannot be made is only said."""
    linked: str | None = None
    try:
        # again when another version has landed meanwhile: its link may have come before ours
        while (newest := _newest(bench, variant, name)) is not None and newest != linked:
            bench.store.link(variant, name, newest)
            linked = newest
    except (OSError, SQLAlchemyError) as error:
        logger.warning("lora_adaptors/%s/%s was not linked: %s", variant, name, error)


def _newest(bench: Bench, variant: str, name: str) -> str | None:
    with bench.database.reading() as session:
        newest = registry.newest_version(session, variant, name)
        return newest.id if newest else None


def _try_finish(
    bench: Bench, attempt: Attempt, end: AttemptEnd, files: Sequence[File]
) -> RunStatus:
    with bench.database.transaction() as session:
        status = lifecycle.finish(session, attempt.lease, end, now=now(session))
        if status is RunStatus.SUCCEEDED:
            run = queries.get_run(session, attempt.lease.run_id)
            id = registry.adapter_id(run.id, attempt.lease.attempt)
            registry.add_adapter(session, run, id, files)
    return status


def _unexpected(error: Exception) -> AttemptEnd:
    if isinstance(error, LeaseLost):
        raise error
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return failed(FailureCode.DISK_FULL).end
    logger.exception("the worker failed")
    return failed(FailureCode.WORKER_ERROR, detail=f"{type(error).__name__}: {error}").end


def _discard_unlisted(bench: Bench, lease: Lease) -> None:
    """Files without a row go; a commit whose answer was lost has made a row, and they stay."""
    id = registry.adapter_id(lease.run_id, lease.attempt)
    with bench.database.reading() as session:
        try:
            adapter = registry.get_adapter(session, id)
        except NotFound:
            bench.store.discard(id)
            return
    _link_newest(bench, adapter.variant, adapter.name)


def _log_tail(files: AttemptFiles) -> str:
    with files.log.open("rb") as log:
        log.seek(max(0, files.log.stat().st_size - LOG_TAIL_BYTES))
        return log.read().decode(errors="replace")
