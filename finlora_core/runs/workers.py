"""Which workers there are: each says so at every round of its reconciler."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from finlora_core.db.models import Worker


def check_in(
    session: Session, worker: str, host: str, *, gpus: int, now: datetime, since: datetime
) -> None:
    """Say that the worker is there; forget those not heard of `since`."""
    session.execute(delete(Worker).where(Worker.seen_at < since))
    session.merge(Worker(id=worker, host=host, gpus=gpus, seen_at=now))


def check_out(session: Session, worker: str) -> None:
    session.execute(delete(Worker).where(Worker.id == worker))


def elsewhere(session: Session, host: str, *, since: datetime) -> Sequence[str]:
    """Workers on other hosts that have been heard of `since`."""
    others = select(Worker.id).where(Worker.host != host, Worker.seen_at >= since)
    return session.scalars(others.order_by(Worker.id)).all()
