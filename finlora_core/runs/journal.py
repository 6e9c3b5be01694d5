"""What attempts leave behind for people to read: metrics and logs, append-only, by cursor.

Writers call `lifecycle.renew` first, in the same transaction: its guarded UPDATE locks
the run's row, so one attempt writes at a time and a fenced one writes nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from finlora_core.db.models import LogChunk, MetricPoint


class Progress(BaseModel):
    """How far the training of a run is."""

    model_config = ConfigDict(frozen=True)

    step: int = Field(description="Optimizer steps done.")
    max_steps: int = Field(description="Optimizer steps in all.")
    percent: float
    epoch: float | None = None
    loss: float | None = Field(None, description="The latest training loss.")
    eta_seconds: float | None = Field(
        None, description="Training time left at the pace so far; unknown before the first step."
    )


def append_metrics(
    session: Session, run_id: str, attempt: int, points: Iterable[Mapping[str, Any]]
) -> None:
    """Each point holds `step` and the values the trainer logged there."""
    for point in points:
        values = {key: value for key, value in point.items() if key != "step"}
        session.add(
            MetricPoint(run_id=run_id, attempt=attempt, step=int(point["step"]), values=values)
        )


def read_metrics(
    session: Session, run_id: str, *, after: int, limit: int
) -> Sequence[MetricPoint]:
    return session.scalars(
        select(MetricPoint)
        .where(MetricPoint.run_id == run_id, MetricPoint.id > after)
        .order_by(MetricPoint.id)
        .limit(limit)
    ).all()


def append_log(session: Session, run_id: str, text: str) -> None:
    if not text:
        return
    start = _log_end(session, run_id)
    session.add(LogChunk(run_id=run_id, start=start, end=start + len(text), text=text))
    session.flush()


def read_log(session: Session, run_id: str, *, offset: int, limit: int) -> tuple[str, int]:
    """Up to `limit` characters of the log from `offset` on, and the offset to go on from."""
    chunks = session.scalars(
        select(LogChunk)
        .where(LogChunk.run_id == run_id, LogChunk.end > offset, LogChunk.start < offset + limit)
        .order_by(LogChunk.start)
    ).all()
    if not chunks:
        return "", offset
    skip = offset - chunks[0].start
    text = "".join(chunk.text for chunk in chunks)[skip : skip + limit]
    return text, offset + len(text)


def _log_end(session: Session, run_id: str) -> int:
    end = session.scalar(select(func.max(LogChunk.end)).where(LogChunk.run_id == run_id))
    return end or 0
