"""Every write to `Run.status`, and the event that tells of it. Functions take a session and
never commit.

Each move locks the run's row, looks, decides and writes, in one short transaction:
`FOR UPDATE` on PostgreSQL, and on SQLite a transaction that is the only writer from its
start. So the database decides every race, and nothing slow happens under a lock.
A worker's writes are fenced by its lease: the attempt's number and token, not expired.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self

from sqlalchemy import Select, insert, or_, select, update
from sqlalchemy.orm import Session

from finlora_core.access.owners import DEFAULT_OWNER
from finlora_core.datasets.check import DatasetFacts
from finlora_core.db.models import Run, RunAttempt
from finlora_core.errors import IllegalTransition, LeaseLost, NotFound
from finlora_core.runs.config import RunConfig, Treatment
from finlora_core.runs.event_type import EventType
from finlora_core.runs.events import tell, tell_end
from finlora_core.runs.kind import RunKind
from finlora_core.runs.outcome import AttemptEnd, End, RetryPolicy, Wish, next_status
from finlora_core.runs.status import Phase, RunStatus, require_transition
from finlora_core.runs.turns import OWN_ORDER, is_waiting, owners_in_turn
from finlora_core.training.diagnose import FailureCode, failure
from finlora_core.training.hints import hint_of
from finlora_core.webhooks import outbox


@dataclass(frozen=True)
class Lease:
    """The right of one attempt to write results, until it expires."""

    run_id: str
    attempt: int
    token: str


@dataclass(frozen=True, kw_only=True)
class Order:
    """How a run is to be treated; what it trains is in its config."""

    name: str
    owner: str = DEFAULT_OWNER
    priority: int = 0
    time_limit_seconds: float | None = None
    parent_id: str | None = None
    user_metadata: dict[str, str] | None = None

    @classmethod
    def of(cls, asked: Treatment, name: str, owner: str) -> Self:
        return cls(
            name=name,
            owner=owner,
            priority=asked.priority,
            time_limit_seconds=asked.time_limit_seconds,
            user_metadata=asked.metadata,
        )


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a run does, as its row tells it."""

    kind: RunKind
    base_model: str
    variant: str
    """The adapter's folder; of what makes no adapter, that of each it is about."""
    config: dict[str, Any]
    config_sha256: str
    dataset_rows: int
    dataset_sha256: str
    validation_sha256: str | None = None
    gpus: int = 1


@dataclass(frozen=True)
class Gpus:
    """What a worker may train a run on; a CPU counts as one."""

    seen: int = 1
    free: int = 1
    """Of those seen: what no training is on now."""


ONE_GPU = Gpus()

_INSERT = insert(Run.metadata.tables[Run.__tablename__])
_COLUMNS = Run.__mapper__.columns


def create_run(
    session: Session,
    config: RunConfig,
    order: Order,
    *,
    dataset: DatasetFacts,
    validation: DatasetFacts | None = None,
    now: datetime,
) -> Run:
    work = Work(
        kind=RunKind.TRAINING,
        base_model=config.base_model,
        variant=config.variant,
        config=config.model_dump(mode="json"),
        config_sha256=config.sha256,
        dataset_rows=dataset.rows,
        dataset_sha256=dataset.sha256,
        validation_sha256=validation.sha256 if validation else None,
        gpus=config.gpus,
    )
    return create(session, work, order, now=now)


def create(session: Session, work: Work, order: Order, *, now: datetime) -> Run:
    """The run is no object of the session: that would take twice the time."""
    told = {
        "id": work.kind.new_id(now),
        **vars(order),
        **vars(work),
        "status": RunStatus.QUEUED,
        "attempt": 0,
        "crashes": 0,
        "created_at": now,
        "queued_at": now,
        "not_before": now,
        "offered_at": now,  # the caller offers it next, or says so with mark_unoffered
    }
    session.connection().execute(_INSERT, {_COLUMNS[key].name: told[key] for key in told})
    run = Run()
    vars(run).update(told)  # at once: nobody is to note each as a change
    tell(session, run, EventType.CREATED, at=now, parent_id=run.parent_id)
    return run


def retry_run(
    session: Session,
    run_id: str,
    *,
    dataset: DatasetFacts,
    validation: DatasetFacts | None = None,
    now: datetime,
) -> Run:
    """A new run of the same config, which goes on from the old one's checkpoints.

    Raises `NotFound`, or `IllegalTransition` unless the run has failed or was cancelled.
    """
    parent = _locked(session, run_id)
    if parent.status not in (RunStatus.FAILED, RunStatus.CANCELLED):
        raise IllegalTransition(
            f"run {run_id!r} is {parent.status}; only a failed or cancelled run can be retried"
        )
    order = Order(
        name=parent.name,
        owner=parent.owner,
        priority=parent.priority,
        time_limit_seconds=parent.time_limit_seconds,
        parent_id=parent.id,
        user_metadata=parent.user_metadata,
    )
    config = RunConfig.model_validate(parent.config)
    return create_run(session, config, order, dataset=dataset, validation=validation, now=now)


def claim_next(
    session: Session, *, worker: str, now: datetime, ttl: timedelta, gpus: Gpus = ONE_GPU
) -> Lease | None:
    """Start the next attempt of the run whose turn it is, or None.

    A run that needs more GPUs than the worker sees is another worker's. One that needs more
    than are free has its turn all the same: nobody passes it, or it would wait for ever.

    Safe to call any number of times: a Celery message is a hint that work may exist,
    and the row's lock decides who does it.
    """
    for owner in session.scalars(owners_in_turn()).all():
        run = session.scalars(_first_in_line(owner, now, gpus.seen)).first()
        if run is not None and run.gpus > gpus.free:
            return None
        if run is not None:
            return _start_attempt(session, run, worker=worker, now=now, ttl=ttl)
    return None


def renew(
    session: Session,
    lease: Lease,
    *,
    now: datetime,
    ttl: timedelta,
    progress: dict[str, Any] | None = None,
    checkpoint_step: int | None = None,
) -> Wish | None:
    """Keep the lease, and learn what somebody wishes of the run.

    A new checkpoint is progress: the crashes before it do not count any more.
    Raises `LeaseLost` when the attempt has been given up or given to another worker.
    """
    run = _held(session, lease, now)
    run.lease_expires_at = now + ttl
    dropped = _dropped_rows(run)
    if progress is not None:
        run.progress = progress
    if _dropped_rows(run) != dropped:
        _tell_of_attempt(session, run, EventType.ROWS_DROPPED, now, rows=_dropped_rows(run))
    if checkpoint_step is not None and checkpoint_step > (run.checkpoint_step or 0):
        run.checkpoint_step, run.crashes = checkpoint_step, 0
        _tell_of_attempt(session, run, EventType.CHECKPOINT_SAVED, now, step=checkpoint_step)
    session.flush()
    return run.wish


def enter_phase(session: Session, lease: Lease, phase: Phase, *, now: datetime) -> None:
    _held(session, lease, now).phase = phase
    session.flush()


def record_start(
    session: Session, lease: Lease, *, yaml: str, resumed_from: int | None, now: datetime
) -> None:
    """What the attempt gives to Axolotl, and from which step it goes on."""
    run = _held(session, lease, now)
    run.axolotl_yaml = yaml
    attempt = _attempt_of(session, lease.run_id, lease.attempt)
    if resumed_from not in (None, attempt.resumed_from):
        resumed = EventType.RESUMED_FROM_CHECKPOINT
        _tell_of_attempt(session, run, resumed, now, step=resumed_from)
    attempt.resumed_from = resumed_from
    session.flush()


def finish(
    session: Session, lease: Lease, end: AttemptEnd, *, now: datetime, policy: RetryPolicy
) -> RunStatus:
    """End the attempt in the status its end calls for.

    Raises `LeaseLost`: roll back then, so that nothing written beside it stays.
    """
    return _end_attempt(session, _held(session, lease, now), end, now=now, policy=policy)


def expire_leases(
    session: Session, *, now: datetime, grace: timedelta, policy: RetryPolicy
) -> Sequence[str]:
    """Take runs back from workers that have gone silent; the ids of those runs.

    The grace is for a worker whose guard is still at clearing its training away.
    """
    expired = select(Run).where(Run.lease_expires_at <= now - grace)
    runs = session.scalars(expired.with_for_update(skip_locked=True)).all()
    for run in runs:
        _end_attempt(session, run, _LOST, now=now, policy=policy)
    return [run.id for run in runs]


def held_leases(session: Session) -> Sequence[tuple[str, Lease]]:
    """Which worker holds which run."""
    held = select(Run.lease_owner, Run.id, Run.attempt, Run.lease_token)
    rows = session.execute(held.where(Run.lease_expires_at.is_not(None))).all()
    return [(row.lease_owner, Lease(row.id, row.attempt, row.lease_token)) for row in rows]


def take_back(
    session: Session, lease: Lease, *, now: datetime, policy: RetryPolicy
) -> RunStatus | None:
    """As `expire_leases`, at once: for a worker that is known to be dead, and its trainer too.

    None when the run is not that attempt's any more.
    """
    held = select(Run).where(Run.id == lease.run_id, Run.lease_token == lease.token)
    run = session.scalars(held.with_for_update()).first()
    return _end_attempt(session, run, _LOST, now=now, policy=policy) if run else None


def request_cancel(session: Session, run_id: str, *, now: datetime) -> Run:
    """Cancel a waiting run at once; ask a running one to stop. Repeating it changes nothing.

    Raises `NotFound`, or `IllegalTransition` when the run has already ended otherwise.
    """
    run = _locked(session, run_id)
    if run.status is RunStatus.CANCELLED:
        return run
    _require_alive(run, "cancel")
    if run.status is not RunStatus.RUNNING:
        _move(session, run, RunStatus.CANCELLED, now)
        tell(session, run, EventType.CANCELLED, at=now)
    elif run.cancel_requested_at is None:
        tell(session, run, EventType.CANCEL_REQUESTED, at=now)
    run.cancel_requested_at = run.cancel_requested_at or now
    session.flush()
    return run


def request_pause(session: Session, run_id: str, *, now: datetime) -> Run:
    """Pause a queued run at once; ask a running one to save a checkpoint and let go of its GPU.

    Repeating it changes nothing. Raises `NotFound`, or `IllegalTransition` when the run has
    ended, is being cancelled, or is publishing already.
    """
    run = _locked(session, run_id)
    if run.status is RunStatus.PAUSED:
        return run
    _require_alive(run, "pause")
    if run.status is RunStatus.QUEUED:
        _move(session, run, RunStatus.PAUSED, now)
        tell(session, run, EventType.PAUSED, at=now)
    else:
        _require_pausable(run)
        if run.pause_requested_at is None:
            tell(session, run, EventType.PAUSE_REQUESTED, at=now)
        run.pause_requested_at = run.pause_requested_at or now
    session.flush()
    return run


def resume_run(session: Session, run_id: str, *, now: datetime) -> Run:
    """Queue a paused run again; it goes on from its checkpoint. Repeating it changes nothing.

    Raises `NotFound`, or `IllegalTransition` when the run has ended or is running.
    """
    run = _locked(session, run_id)
    if run.status is RunStatus.QUEUED:
        return run
    _require_alive(run, "resume")
    if run.status is RunStatus.RUNNING:
        raise IllegalTransition(f"run {run_id!r} is running; only a paused run can be resumed")
    _move(session, run, RunStatus.QUEUED, now)
    run.queued_at = run.not_before = run.offered_at = now
    tell(session, run, EventType.RESUMED, at=now)
    session.flush()
    return run


def unoffered(
    session: Session, *, now: datetime, before: datetime, limit: int = 100
) -> Sequence[str]:
    """Queued runs, due by now, that no worker has been told of since `before`."""
    return session.scalars(
        select(Run.id)
        .where(
            Run.status == RunStatus.QUEUED,
            Run.not_before <= now,
            or_(Run.offered_at.is_(None), Run.offered_at <= before),
        )
        .order_by(Run.queued_at, Run.id)
        .limit(limit)
    ).all()


def mark_offered(session: Session, run_ids: Sequence[str], *, now: datetime) -> None:
    _offer(session, run_ids, now)


def mark_unoffered(session: Session, run_id: str) -> None:
    """The broker did not take the message: let the reconciler offer the run soon."""
    _offer(session, [run_id], None)


_LOST = AttemptEnd(end=End.LOST, failure=failure(FailureCode.WORKER_LOST))


def _first_in_line(owner: str, now: datetime, gpus: int) -> Select[Run]:
    """Locked; a run that somebody else is just taking is passed over."""
    due = select(Run).where(
        Run.owner == owner,
        is_waiting(),
        Run.not_before <= now,
        Run.gpus <= gpus,
    )
    return due.order_by(*OWN_ORDER).limit(1).with_for_update(skip_locked=True)


def _start_attempt(
    session: Session, run: Run, *, worker: str, now: datetime, ttl: timedelta
) -> Lease:
    _move(session, run, RunStatus.RUNNING, now)
    lease = Lease(run.id, run.attempt + 1, uuid.uuid4().hex)
    run.attempt, run.phase, run.started_at, run.progress = (
        lease.attempt,
        Phase.PREPARING,
        now,
        None,
    )
    run.lease_owner, run.lease_token, run.lease_expires_at = worker, lease.token, now + ttl
    session.add(RunAttempt(run_id=run.id, number=run.attempt, worker=worker, started_at=now))
    _tell_of_attempt(session, run, EventType.STARTED, now, worker=worker)
    session.flush()
    return lease


def _end_attempt(
    session: Session, run: Run, end: AttemptEnd, *, now: datetime, policy: RetryPolicy
) -> RunStatus:
    """The run's row is locked and this attempt is its live one."""
    run.crashes += end.is_crash
    _close_attempt(session, run, end, now)
    status = next_status(end, wish=run.wish, crashes=run.crashes, policy=policy)
    _move(session, run, status, now)
    run.lease_owner = run.lease_token = run.lease_expires_at = run.phase = None
    run.pause_requested_at = None
    if status is RunStatus.QUEUED:
        delay = policy.delay(run.crashes) if end.is_crash else 0
        run.not_before, run.offered_at = now + timedelta(seconds=delay), None
    if status is RunStatus.FAILED and end.failure is not None:
        run.error_code, run.error_hint = end.failure.code, hint_of(end.failure, run.kind)
        run.error_log = end.failure.log_tail
    tell_end(session, run, end, at=now)
    session.flush()
    return status


def _tell_of_attempt(
    session: Session, run: Run, type: EventType, now: datetime, **data: Any
) -> None:
    tell(session, run, type, at=now, attempt=run.attempt, **data)


def _dropped_rows(run: Run) -> int:
    return int((run.progress or {}).get("dropped_rows", 0))


def _close_attempt(session: Session, run: Run, end: AttemptEnd, now: datetime) -> None:
    attempt = _attempt_of(session, run.id, run.attempt)
    attempt.ended_at, attempt.end = now, end.end
    attempt.error_code = end.failure.code if end.failure else None


def _move(session: Session, run: Run, new: RunStatus, now: datetime) -> None:
    """The one place that changes a status. The row is locked."""
    require_transition(run.status, new)
    run.status = new
    if new.is_terminal:
        run.finished_at = now
        if run.kind is RunKind.TRAINING:  # what OpenAI's clients know as a job
            outbox.tell(session, run, now=now)


def _held(session: Session, lease: Lease, now: datetime) -> Run:
    """The run, locked, if the lease still holds. Raises `LeaseLost`."""
    held = select(Run).where(
        Run.id == lease.run_id,
        Run.attempt == lease.attempt,
        Run.lease_token == lease.token,
        Run.lease_expires_at > now,
    )
    run = session.scalars(held.with_for_update().execution_options(populate_existing=True)).first()
    if run is None:
        raise LeaseLost(f"attempt {lease.attempt} of run {lease.run_id!r} is no longer ours")
    return run


def _locked(session: Session, run_id: str) -> Run:
    """The run, locked. Raises `NotFound`."""
    run = session.get(Run, run_id, with_for_update=True, populate_existing=True)
    if run is None:
        raise NotFound("run", run_id)
    return run


def _attempt_of(session: Session, run_id: str, number: int) -> RunAttempt:
    return session.get_one(RunAttempt, (run_id, number))


def _require_alive(run: Run, verb: str) -> None:
    if run.status.is_terminal:
        raise IllegalTransition(
            f"run {run.id!r} has already {_ENDED[run.status]}; cannot {verb} it"
        )


def _require_pausable(run: Run) -> None:
    if run.cancel_requested_at is not None:
        raise IllegalTransition(f"run {run.id!r} is running and being cancelled; cannot pause it")
    if run.phase is Phase.PUBLISHING:
        raise IllegalTransition(f"run {run.id!r} is running and already publishing; it ends soon")


_ENDED = {
    RunStatus.SUCCEEDED: "succeeded",
    RunStatus.FAILED: "failed",
    RunStatus.CANCELLED: "been cancelled",
}


def _offer(session: Session, run_ids: Sequence[str], at: datetime | None) -> None:
    waiting = update(Run).where(Run.id.in_(run_ids), Run.status == RunStatus.QUEUED)
    session.execute(waiting.values(offered_at=at))
