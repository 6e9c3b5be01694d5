"""What has happened to runs, move by move."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from finlora_core.db.models.base import AUTO_ID, Base
from finlora_core.runs.event_type import EventType, Level

_LEVELS = ", ".join(f"'{level}'" for level in Level)


class Event(Base):
    """Written in the transaction of the move that it tells of, and never changed; the id is the
    cursor. A run's writers hold the lock of its row, so within a run ids are committed in order;
    across runs they need not be."""

    __tablename__ = "events"
    __table_args__ = (
        CheckConstraint(f"level IN ({_LEVELS})", name="level"),
        Index("ix_events_run", "run_id", "id"),
    )

    id: Mapped[int] = mapped_column(AUTO_ID, primary_key=True, autoincrement=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    owner: Mapped[str]
    at: Mapped[datetime]
    type: Mapped[EventType]
    level: Mapped[Level]
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any]]
