"""What attempts leave behind for people to read: metrics and logs, append-only, by cursor.

Writers call `lifecycle.renew` first, in the same transaction: its guarded UPDATE locks
the run's row, so one attempt writes at a time and a fenced one writes nothing.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from finlora_core.db.models import LogChunk, MetricPoint, Run

NEWEST_METRIC = (
    select(func.max(MetricPoint.id))
    .where(MetricPoint.run_id == Run.id)
    .correlate(Run)
    .scalar_subquery()
)
LOG_END = (
    select(LogChunk.end)
    .where(LogChunk.run_id == Run.id)
    .order_by(LogChunk.start.desc())  # the index has the start, and the last one's end is the end
    .limit(1)
    .correlate(Run)
    .scalar_subquery()
)
"""The cursors of what is last, for a query of runs."""


LATELY = 64
"""Points: a run logs about 100, and validates four times an epoch."""


class Progress(BaseModel):
    """How far the training of a run is."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    step: int = Field(description="Optimizer steps done.")
    max_steps: int = Field(description="Optimizer steps in all.")
    percent: float
    epoch: float | None = None
    loss: float | None = Field(None, description="The latest training loss.")
    eta_seconds: float | None = Field(
        None, description="Training time left at the pace so far; unknown before the first step."
    )
    dropped_rows: int = Field(
        0, description="Rows of the dataset that are longer than `sequence_len`, and left out."
    )

    @classmethod
    def parse(cls, content: Mapping[str, Any] | None) -> Self | None:
        """What an untrusted process wrote; None when it makes no sense."""
        try:
            return None if content is None else cls.model_validate(content)
        except ValidationError:
            return None


def append_metrics(
    session: Session, run_id: str, attempt: int, points: Iterable[Mapping[str, Any]]
) -> None:
    """Each point holds `step` and the values the trainer logged there.

    They come from a process that is not trusted: what is no finite number is left out.
    """
    for point in points:
        step = point.get("step")
        values = {key: float(v) for key, v in point.items() if key != "step" and _is_finite(v)}
        if isinstance(step, int) and 0 <= step < 2**31 and values:
            session.add(MetricPoint(run_id=run_id, attempt=attempt, step=step, values=values))


def read_metrics(
    session: Session, run_id: str, *, after: int, limit: int
) -> Sequence[MetricPoint]:
    return session.scalars(
        select(MetricPoint)
        .where(MetricPoint.run_id == run_id, MetricPoint.id > after)
        .order_by(MetricPoint.id)
        .limit(limit)
    ).all()


def newest_values(session: Session, run_id: str, *, step: int | None = None) -> dict[str, float]:
    """Of each thing that was logged lately, up to a step: its newest value."""
    lately = select(MetricPoint).where(MetricPoint.run_id == run_id)
    if step is not None:
        lately = lately.where(MetricPoint.step <= step)
    values: dict[str, float] = {}
    for point in session.scalars(lately.order_by(MetricPoint.id.desc()).limit(LATELY)):
        values = {**point.values, **values}
    return values


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
        .where(LogChunk.run_id == run_id, LogChunk.end > offset, LogChunk.start - offset < limit)
        .order_by(LogChunk.start)
    ).all()
    if not chunks:
        return "", offset
    skip = offset - chunks[0].start
    text = "".join(chunk.text for chunk in chunks)[skip : skip + limit]
    return text, offset + len(text)


def _is_finite(value: object) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # a whole number too large for a float
        return False


def _log_end(session: Session, run_id: str) -> int:
    end = session.scalar(select(func.max(LogChunk.end)).where(LogChunk.run_id == run_id))
    return end or 0
