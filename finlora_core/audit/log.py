"""Write an entry, read them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from finlora_core.audit.action import Action
from finlora_core.audit.signing import key_of, sign
from finlora_core.db.models import AuditEntry


@dataclass(frozen=True)
class Actor:
    """Who does it."""

    owner: str
    key_id: str | None = None
    """None on the command line of the service's own machine."""
    request_id: str | None = None


_INSERT = insert(AuditEntry.metadata.tables[AuditEntry.__tablename__]).inline()
"""It takes a quarter of what an object of the session would; nobody asks for its id."""

HERE = Actor("operator")
"""Whoever may reach this machine's database."""


@dataclass(frozen=True, kw_only=True)
class Filters:
    """What an entry's columns must be; None: anything."""

    owner: str | None = None
    key_id: str | None = None
    action: Action | None = None
    object_id: str | None = None


def note(
    session: Session,
    pepper: bytes,
    actor: Actor,
    action: Action,
    object_id: str,
    *,
    now: datetime,
    **details: Any,
) -> None:
    """In the transaction of what is told of: both are there, or none. No secret in `details`."""
    said = {
        "at": now,
        **vars(actor),
        "action": action.value,
        "object_id": object_id,
        "details": details,
    }
    signature = sign(key_of(pepper), said)
    session.connection().execute(_INSERT, {**said, "signature": signature})


def list_entries(
    session: Session, filters: Filters, *, limit: int, before: int | None = None
) -> Sequence[AuditEntry]:
    """The newest first, of ids below `before`."""
    wanted = {name: value for name, value in vars(filters).items() if value is not None}
    entries = select(AuditEntry).filter_by(**wanted)
    if before is not None:
        entries = entries.where(AuditEntry.id < before)
    return session.scalars(entries.order_by(AuditEntry.id.desc()).limit(limit)).all()
