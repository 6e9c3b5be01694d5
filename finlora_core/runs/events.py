"""What is told of a run: an event a move, written in the transaction of the move itself.

The caller holds the lock of the run's row, or has just made the row.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from finlora_core.db.models import Adapter, Event, Run
from finlora_core.runs.event_type import EventType, Level
from finlora_core.runs.outcome import AttemptEnd, End
from finlora_core.runs.status import RunStatus

MESSAGES: Mapping[EventType, str] = MappingProxyType(
    {
        EventType.CREATED: "The run is queued.",
        EventType.STARTED: "Attempt {attempt} has started on {worker}.",
        EventType.RESUMED_FROM_CHECKPOINT: "Attempt {attempt} goes on from step {step}.",
        EventType.ROWS_DROPPED: "{rows} rows are longer than sequence_len, and left out.",
        EventType.CHECKPOINT_SAVED: "The checkpoint of step {step} is saved.",
        EventType.CANCEL_REQUESTED: "The training is to stop: the run is being cancelled.",
        EventType.PAUSE_REQUESTED: "The training is to save a checkpoint and stop: a pause.",
        EventType.PAUSED: "The run is paused.",
        EventType.RESUMED: "The run is queued again, after a pause.",
        EventType.REQUEUED: "The run is queued again: attempt {attempt} has ended ({reason}).",
        EventType.SUCCEEDED: "The run has succeeded.",
        EventType.ADAPTER_PUBLISHED: "Version {version} of {name} is published: {adapter_id}.",
        EventType.FAILED: "The run has failed ({code}). {hint}",
        EventType.CANCELLED: "The run is cancelled.",
    }
)
"""For people; the names in braces are keys of `data`, which is for programs."""

_LEVELS = {
    EventType.ROWS_DROPPED: Level.WARN,
    EventType.REQUEUED: Level.WARN,
    EventType.FAILED: Level.ERROR,
}

_ENDED = {
    RunStatus.QUEUED: EventType.REQUEUED,
    RunStatus.PAUSED: EventType.PAUSED,
    RunStatus.SUCCEEDED: EventType.SUCCEEDED,
    RunStatus.FAILED: EventType.FAILED,
    RunStatus.CANCELLED: EventType.CANCELLED,
}
"""What to tell when an attempt has left the run in this status."""

_INSERT = insert(Event.metadata.tables[Event.__tablename__]).inline()
"""It takes a quarter of what an object of the session would; nobody asks for its id."""

NEWEST_EVENT = (
    select(func.max(Event.id)).where(Event.run_id == Run.id).correlate(Run).scalar_subquery()
)
"""The cursor of the last one, for a query of runs."""


def tell(session: Session, run: Run, type: EventType, *, at: datetime, **data: Any) -> None:
    """`data` needs the keys that the type's message names."""
    event = {
        "run_id": run.id,
        "owner": run.owner,
        "at": at,
        "type": type,
        "level": _LEVELS.get(type, Level.INFO),
        "message": MESSAGES[type].format(**data),
        "data": data,
    }
    session.connection().execute(_INSERT, event)  # flushes nothing: a move may be half made


def tell_end(session: Session, run: Run, end: AttemptEnd, *, at: datetime) -> None:
    """What its attempt's end has made of the run."""
    data: dict[str, Any] = {"attempt": run.attempt}
    if run.status is RunStatus.QUEUED:
        data["reason"] = end.failure.code if end.failure else _REASONS[end.end]
    if run.status is RunStatus.FAILED:
        data |= {"code": run.error_code, "hint": run.error_hint}
    tell(session, run, _ENDED[run.status], at=at, **data)


_REASONS = {End.DRAINED: "worker_drained", End.STOPPED: "stopped"}


def tell_published(session: Session, run: Run, adapter: Adapter) -> None:
    tell(
        session,
        run,
        EventType.ADAPTER_PUBLISHED,
        at=adapter.created_at,
        adapter_id=adapter.id,
        name=adapter.name,
        version=adapter.version,
    )


def newest_events(
    session: Session,
    run_id: str,
    *,
    before: int | None,
    limit: int,
    type: EventType | None = None,
) -> Sequence[Event]:
    """The newest first; of one type, when told so."""
    of_run = select(Event).where(Event.run_id == run_id)
    if before is not None:
        of_run = of_run.where(Event.id < before)
    if type is not None:
        of_run = of_run.where(Event.type == type)
    return session.scalars(of_run.order_by(Event.id.desc()).limit(limit)).all()


def read_events(session: Session, run_id: str, *, after: int, limit: int) -> Sequence[Event]:
    """The oldest first."""
    of_run = select(Event).where(Event.run_id == run_id, Event.id > after)
    return session.scalars(of_run.order_by(Event.id).limit(limit)).all()
