"""Uploads in parts: begun, filled in any order and at once, completed or cancelled."""

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from finlora_core.db.models import Upload
from finlora_core.errors import Conflict, NotFound

Status = Literal["pending", "completed", "cancelled", "expired"]

LIFETIME = timedelta(hours=24)
"""Of an upload that nobody completes."""


def begin_upload(
    session: Session, owner: str, name: str, size: int, *, lifetime: int | None, now: datetime
) -> Upload:
    """`size` in bytes; `lifetime` of the dataset that it becomes, in seconds."""
    upload = Upload(
        id=f"upload_{uuid.uuid4().hex[:20]}",
        owner=owner,
        name=name,
        bytes=size,
        lifetime_seconds=lifetime,
        created_at=now,
        expires_at=now + LIFETIME,
    )
    session.add(upload)
    session.flush()
    return upload


def get_upload(session: Session, owner: str, id: str, *, lock: bool = False) -> Upload:
    """Raises `NotFound`."""
    one = select(Upload).where(Upload.id == id, Upload.owner == owner)
    upload = session.scalars(one.with_for_update() if lock else one).first()
    if upload is None:
        raise NotFound("upload", id)
    return upload


def require_open(upload: Upload, now: datetime) -> None:
    """Raises `Conflict` once it has ended."""
    ended = status_of(upload, now)
    if ended != "pending":
        raise Conflict(f"upload {upload.id!r} is {ended}")


def cancel_upload(session: Session, owner: str, id: str, *, now: datetime) -> Upload:
    """Repeating it changes nothing. Raises `NotFound`, `Conflict`."""
    upload = get_upload(session, owner, id, lock=True)
    if upload.cancelled_at is None:
        require_open(upload, now)
        upload.cancelled_at = now
        session.flush()
    return upload


def status_of(upload: Upload, now: datetime) -> Status:
    if upload.dataset_id is not None:
        return "completed"
    if upload.cancelled_at is not None:
        return "cancelled"
    return "expired" if upload.expires_at <= now else "pending"


def expired(session: Session, *, now: datetime, limit: int = 100) -> Sequence[Upload]:
    old = select(Upload).where(Upload.expires_at <= now).order_by(Upload.expires_at)
    return session.scalars(old.limit(limit)).all()


def forget(session: Session, ids: Sequence[str]) -> None:
    session.execute(delete(Upload).where(Upload.id.in_(ids)))
