"""Every write to `Run.status`. Functions take a session and never commit.

Each move is one guarded UPDATE, so the database decides every race, on PostgreSQL
and SQLite alike, with no lock held while anything slow happens. A worker's writes
are fenced by its lease: the attempt's number and token, not expired.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select, update
from sqlalchemy.orm import Session

from finlora_core.datasets.check import DatasetFacts
from finlora_core.db.models import Run
from finlora_core.errors import IllegalTransition, LeaseLost, NotFound
from finlora_core.runs.config import RunConfig
from finlora_core.runs.outcome import AttemptEnd, Failure, next_status, status_after_loss
from finlora_core.runs.status import Phase, RunStatus, require_transition

_NO_LEASE = {"lease_owner": None, "lease_token": None, "lease_expires_at": None, "phase": None}


@dataclass(frozen=True)
class Lease:
    """The right of one attempt to write results, until it expires."""

    run_id: str
    attempt: int
    token: str


def create_run(
    session: Session, config: RunConfig, *, name: str, dataset: DatasetFacts, now: datetime
) -> Run:
    run = Run(
        id=f"run_{uuid.uuid4().hex[:20]}",
        name=name,
        variant=config.variant,
        base_model=config.base_model,
        config=config.model_dump(mode="json"),
        config_sha256=config.sha256,
        dataset_rows=dataset.rows,
        dataset_sha256=dataset.sha256,
        status=RunStatus.QUEUED,
        created_at=now,
        queued_at=now,
        offered_at=now,  # the caller offers it next, or says so with mark_unoffered
    )
    session.add(run)
    session.flush()
    return run


def claim_next(session: Session, *, owner: str, now: datetime, ttl: timedelta) -> Lease | None:
    """Start the next attempt of the run that has waited longest, or None.

    Safe to call any number of times: a Celery message is a hint that work may exist,
    and this one statement decides who does it.
    """
    longest_waiting = (
        select(Run.id)
        .where(Run.status == RunStatus.QUEUED)
        .order_by(Run.queued_at, Run.id)
        .limit(1)
        .with_for_update(skip_locked=True)  # PostgreSQL; SQLite has one writer anyway
        .scalar_subquery()
    )
    require_transition(RunStatus.QUEUED, RunStatus.RUNNING)
    row = session.execute(
        update(Run)
        .where(Run.id == longest_waiting, Run.status == RunStatus.QUEUED)
        .values(
            status=RunStatus.RUNNING,
            phase=Phase.PREPARING,
            attempt=Run.attempt + 1,
            started_at=now,
            progress=None,
            lease_owner=owner,
            lease_token=uuid.uuid4().hex,
            lease_expires_at=now + ttl,
        )
        .returning(Run.id, Run.attempt, Run.lease_token)
    ).first()
    return Lease(row.id, row.attempt, row.lease_token) if row else None


def renew(
    session: Session,
    lease: Lease,
    *,
    now: datetime,
    ttl: timedelta,
    progress: dict[str, Any] | None = None,
) -> bool:
    """Keep the lease; True when somebody wishes to cancel the run.

    Raises `LeaseLost` when the attempt has been given up or given to another worker.
    """
    values: dict[str, Any] = {"lease_expires_at": now + ttl}
    if progress is not None:
        values["progress"] = progress
    return _fenced(session, lease, now, values).cancel_requested_at is not None


def enter_phase(session: Session, lease: Lease, phase: Phase, *, now: datetime) -> None:
    _fenced(session, lease, now, {"phase": phase})


def record_yaml(session: Session, lease: Lease, yaml: str, *, now: datetime) -> None:
    _fenced(session, lease, now, {"axolotl_yaml": yaml})


def finish(session: Session, lease: Lease, end: AttemptEnd, *, now: datetime) -> RunStatus:
    """End the attempt in the status its end calls for.

    Raises `LeaseLost`: roll back then, so that nothing written beside it stays.
    """
    wish = _fenced(session, lease, now, {}).cancel_requested_at
    status = next_status(end.end, cancel_requested=wish is not None)
    require_transition(RunStatus.RUNNING, status)
    _fenced(session, lease, now, _leaving_running(status, now, end.failure))
    return status


def request_cancel(session: Session, run_id: str, *, now: datetime) -> Run:
    """Cancel a queued run at once; ask a running one to stop. Repeating it changes nothing.

    Raises `NotFound`, or `IllegalTransition` when the run has already ended otherwise.
    """
    session.execute(
        update(Run)
        .where(Run.id == run_id, Run.finished_at.is_(None), Run.cancel_requested_at.is_(None))
        .values(cancel_requested_at=now)
    )
    session.execute(
        update(Run)
        .where(Run.id == run_id, Run.status == RunStatus.QUEUED)
        .values(status=RunStatus.CANCELLED, finished_at=now)
    )
    run = session.get(Run, run_id, populate_existing=True)
    if run is None:
        raise NotFound("run", run_id)
    if run.status.is_terminal and run.status is not RunStatus.CANCELLED:
        raise IllegalTransition(f"run {run_id!r} has already {run.status}; nothing to cancel")
    return run


def expire_leases(session: Session, *, now: datetime, max_crashes: int) -> Sequence[str]:
    """Take runs back from workers that have gone silent; the ids that wait in the queue again."""
    expired = session.execute(
        select(Run.id, Run.lease_token, Run.crashes, Run.cancel_requested_at).where(
            Run.status == RunStatus.RUNNING, Run.lease_expires_at <= now
        )
    ).all()
    requeued = []
    for row in expired:
        status = status_after_loss(
            cancel_requested=row.cancel_requested_at is not None,
            crashes=row.crashes + 1,
            max_crashes=max_crashes,
        )
        values = _leaving_running(status, now, _worker_lost(row.crashes + 1))
        still_expired = and_(Run.lease_token == row.lease_token, Run.lease_expires_at <= now)
        if _move(session, row.id, status, still_expired, {**values, "crashes": row.crashes + 1}):
            requeued += [row.id] if status is RunStatus.QUEUED else []
    return requeued


def unoffered(session: Session, *, before: datetime, limit: int = 100) -> Sequence[str]:
    """Queued runs that no worker has been told of since `before`."""
    return session.scalars(
        select(Run.id)
        .where(
            Run.status == RunStatus.QUEUED,
            or_(Run.offered_at.is_(None), Run.offered_at <= before),
        )
        .order_by(Run.queued_at, Run.id)
        .limit(limit)
    ).all()


def mark_offered(session: Session, run_ids: Sequence[str], *, now: datetime) -> None:
    session.execute(
        update(Run)
        .where(Run.id.in_(run_ids), Run.status == RunStatus.QUEUED)
        .values(offered_at=now)
    )


def mark_unoffered(session: Session, run_id: str) -> None:
    """The broker did not take the message: let the reconciler offer the run soon."""
    session.execute(update(Run).where(Run.id == run_id).values(offered_at=None))


def _leaving_running(status: RunStatus, now: datetime, failure: Failure | None) -> dict[str, Any]:
    """Column values of a run that stops running."""
    values: dict[str, Any] = {"status": status, **_NO_LEASE}
    if status is RunStatus.QUEUED:
        return {**values, "queued_at": now, "offered_at": None, "progress": None}
    if status is RunStatus.FAILED and failure is not None:
        values |= {
            "error_code": failure.code,
            "error_hint": failure.hint,
            "error_log": failure.log_tail,
        }
    return {**values, "finished_at": now}


def _worker_lost(crashes: int) -> Failure:
    return Failure(
        code="worker_lost",
        hint=f"The worker vanished {crashes} times while training this run. Look at the "
        "worker's own log and the machine's memory, then post the run again.",
    )


def _fenced(session: Session, lease: Lease, now: datetime, values: dict[str, Any]) -> Run:
    """Write `values` if the lease still holds. Raises `LeaseLost`."""
    held = and_(
        Run.attempt == lease.attempt,
        Run.lease_token == lease.token,
        Run.lease_expires_at > now,
    )
    run = session.scalars(
        update(Run)
        .where(Run.id == lease.run_id, Run.status == RunStatus.RUNNING, held)
        .values(values or {"attempt": Run.attempt})
        .returning(Run)
        .execution_options(populate_existing=True)
    ).first()
    if run is None:
        raise LeaseLost(f"attempt {lease.attempt} of run {lease.run_id!r} is no longer ours")
    return run


def _move(
    session: Session,
    run_id: str,
    new: RunStatus,
    guard: ColumnElement[bool],
    values: dict[str, Any],
) -> bool:
    require_transition(RunStatus.RUNNING, new)
    moved = session.execute(
        update(Run)
        .where(Run.id == run_id, Run.status == RunStatus.RUNNING, guard)
        .values(values)
        .returning(Run.id)
    )
    return moved.first() is not None
