"""Which POSTs have been done, by the key that their sender gave them."""

from datetime import datetime

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from finlora_core.db.models.base import Base


class IdempotencyKey(Base):
    """Written in the transaction that makes the thing: either both are there, or none."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("ix_idempotency_keys_created_at", "created_at"),)

    owner: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[str]
    """Of method, path and body."""
    made_id: Mapped[str | None]
    """Of what was made; None only while its transaction lasts."""
    created_at: Mapped[datetime]
