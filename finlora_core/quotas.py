"""What owners have of what is limited, and whether a key may add to it.

A key's quota is compared with all that its owner has, whichever key it came with: so that
a new key does not start from nothing. Looked at in the transaction that adds.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from finlora_core.access.keys import Caller
from finlora_core.db.models import ApiKey, Dataset, MergedModel, Run, RunAttempt, Upload
from finlora_core.errors import QuotaExceeded, StorageQuotaExceeded
from finlora_core.runs.status import RunStatus

DAY = timedelta(hours=24)

LOOK_AGAIN = 60
"""Seconds: nobody knows when a queued run of an owner will start."""

_HOUR = timedelta(hours=1)
_WAITING = (RunStatus.QUEUED, RunStatus.PAUSED)


@dataclass(frozen=True)
class Use:
    """What an owner has."""

    queued_runs: int
    stored_bytes: int
    gpu_hours: float
    """In the 24 hours before now."""


@dataclass(frozen=True)
class Span:
    """GPUs that were, or are, a run's."""

    start: datetime
    end: datetime
    gpus: int


def use_of(session: Session, owner: str, *, now: datetime) -> Use:
    return Use(
        queued_runs=_waiting_runs(session, owner),
        stored_bytes=_stored_bytes(session, owner, now),
        gpu_hours=gpu_hours(_spans(session, owner, now), now),
    )


def require_room_for_run(session: Session, caller: Caller, *, now: datetime) -> None:
    """Before it is made, in the same transaction. Raises `QuotaExceeded`."""
    most, hours = caller.quota.max_queued_runs, caller.quota.gpu_hours_per_day
    if most is None and hours is None:
        return
    _one_at_a_time(session, caller.owner)
    if most is not None and (waiting := _waiting_runs(session, caller.owner)) >= most:
        raise QuotaExceeded(
            f"{waiting} runs are queued or paused already, and this key may have {most}",
            retry_after=LOOK_AGAIN,
        )
    if hours is not None:
        _require_gpu_hours(_spans(session, caller.owner, now), hours, now)


def require_room_for_bytes(session: Session, caller: Caller, size: int, *, now: datetime) -> None:
    """Before they are listed, in the same transaction. Raises `StorageQuotaExceeded`."""
    if caller.quota.max_stored_bytes is not None:
        _one_at_a_time(session, caller.owner)
        require_fits(size, room_for_bytes(session, caller, now=now))


def room_for_bytes(session: Session, caller: Caller, *, now: datetime) -> int | None:
    """How many more may come; None for any number."""
    most = caller.quota.max_stored_bytes
    return None if most is None else max(0, most - _stored_bytes(session, caller.owner, now))


def require_fits(size: int, room: int | None) -> None:
    """Raises `StorageQuotaExceeded`. Both in bytes."""
    if room is not None and size > room:
        raise StorageQuotaExceeded(
            f"more than the {room} bytes that this key's quota leaves; delete datasets or merged "
            "models first"
        )


def gpu_hours(spans: Iterable[Span], now: datetime) -> float:
    """Of the 24 hours before `now`."""
    return sum(_hours(span, now - DAY) for span in spans)


def seconds_until_below(spans: Sequence[Span], hours: float, now: datetime) -> int:
    """When the day before then holds less than `hours`, if nothing trains any more.

    As time goes on, the day begins later: between two ends of spans, what it holds falls evenly.
    """
    times = sorted({moment for span in spans for moment in (span.start, span.end)} | {now - DAY})
    at = now - DAY
    for begin in (moment for moment in times if moment > at):
        held = sum(_hours(span, at) for span in spans)
        rate = sum(span.gpus for span in spans if span.start <= at < span.end)
        if rate and held - rate * ((begin - at) / _HOUR) < hours:
            return math.ceil((at - (now - DAY)).total_seconds() + (held - hours) / rate * 3600)
        at = begin
    return math.ceil((at - (now - DAY)).total_seconds())


def _require_gpu_hours(spans: Sequence[Span], hours: float, now: datetime) -> None:
    used = gpu_hours(spans, now)
    if used >= hours:
        wait = max(1, seconds_until_below(spans, hours, now))
        raise QuotaExceeded(
            f"{used:.2f} GPU-hours were used in 24 hours, and this key may use {hours:g}; "
            f"some come free in {wait} s, if nothing trains meanwhile",
            retry_after=wait,
        )


def _hours(span: Span, since: datetime) -> float:
    return span.gpus * max(timedelta(), span.end - max(span.start, since)) / _HOUR


def _one_at_a_time(session: Session, owner: str) -> None:
    """Whoever counts and adds for this owner next waits until this transaction has ended."""
    own = select(ApiKey.id).where(ApiKey.owner == owner).order_by(ApiKey.id)
    session.execute(own.with_for_update()).all()


def _waiting_runs(session: Session, owner: str) -> int:
    waiting = select(func.count()).select_from(Run)
    return session.scalar(waiting.where(Run.owner == owner, Run.status.in_(_WAITING))) or 0


def _stored_bytes(session: Session, owner: str, now: datetime) -> int:
    whole = select(func.sum(Dataset.bytes)).where(Dataset.owner == owner)
    announced = select(func.sum(Upload.bytes)).where(
        Upload.owner == owner,
        Upload.dataset_id.is_(None),
        Upload.cancelled_at.is_(None),
        Upload.expires_at > now,
    )
    rows = sum(int(session.scalar(each) or 0) for each in (whole, announced))
    return rows + _merged_bytes(session, owner)


def _merged_bytes(session: Session, owner: str) -> int:
    """They are few: each is as large as its base."""
    listed = session.scalars(select(MergedModel.files).where(MergedModel.owner == owner))
    return sum(file["size"] for files in listed for file in files)


def _spans(session: Session, owner: str, now: datetime) -> Sequence[Span]:
    """Of attempts that the last day has seen."""
    recent = or_(RunAttempt.ended_at.is_(None), RunAttempt.ended_at > now - DAY)
    attempts = select(RunAttempt.started_at, RunAttempt.ended_at, Run.gpus)
    rows = session.execute(
        attempts.join(Run, Run.id == RunAttempt.run_id).where(recent, Run.owner == owner)
    )
    return [Span(row.started_at, row.ended_at or now, row.gpus) for row in rows]
