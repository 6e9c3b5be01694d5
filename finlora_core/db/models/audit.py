"""Who did what."""

from datetime import datetime
from typing import Any

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from finlora_core.db.models.base import AUTO_ID, Base, where


class AuditEntry(Base):
    """Written once. The database refuses to delete it, and to change anything but its place."""

    __tablename__ = "audit_log"
    __table_args__ = (
        Index(
            "uq_audit_log_number",
            "number",
            unique=True,
            **where("number IS NOT NULL"),
        ),
        Index(
            "ix_audit_log_unsealed",
            "id",
            **where("number IS NULL"),
        ),
        Index("ix_audit_log_owner", "owner", "id"),
        Index("ix_audit_log_object_id", "object_id", "id"),
        Index("ix_audit_log_key_id", "key_id", "id"),
        Index("ix_audit_log_action", "action", "id"),
    )

    id: Mapped[int] = mapped_column(AUTO_ID, primary_key=True, autoincrement=True)
    at: Mapped[datetime]
    owner: Mapped[str]
    """Of the key that did it."""
    key_id: Mapped[str | None]
    """None: on the service's own machine."""
    action: Mapped[str]
    """`audit.action.Action`."""
    object_id: Mapped[str]
    request_id: Mapped[str | None]
    details: Mapped[dict[str, Any]]
    signature: Mapped[str]
    """HMAC-SHA-256 of all of the above but the id."""
    number: Mapped[int | None]
    """Its place in the chain, from 1 on; None until the sealer has come by."""
    seal: Mapped[str | None]
    """HMAC-SHA-256 of number, signature, and the seal before it."""


class AuditHead(Base):
    """How far the chain goes: its only row."""

    __tablename__ = "audit_head"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int]
    seal: Mapped[str]
    signature: Mapped[str]
    """HMAC-SHA-256 of the two."""
    at: Mapped[datetime | None]
