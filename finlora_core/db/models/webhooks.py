"""Who wants to be told of ended runs, and what each has been told."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from finlora_core.db.models.base import Base, Listed, where


class Webhook(Listed, Base):
    """An address to be told at. Its secret is derived (`webhooks.signing`), never stored."""

    __tablename__ = "webhooks"
    __table_args__ = (Index("ix_webhooks_page", "owner", "created_at", "id"),)

    owner: Mapped[str]
    url: Mapped[str]
    events: Mapped[list[str]]
    """Which of `webhooks.outbox.EVENTS` it wants."""


class Delivery(Listed, Base):
    """One message to one webhook: the outbox until it has arrived, the log from then on."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index("ix_webhook_deliveries_page", "webhook_id", "created_at", "id"),
        Index(
            "ix_webhook_deliveries_due",
            "next_at",
            **where("next_at IS NOT NULL"),
        ),
    )

    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    run_id: Mapped[str]
    event: Mapped[str]
    body: Mapped[str] = mapped_column(Text)
    """The bytes that are signed and sent, the same at every try."""
    tries: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[datetime | None]
    """When it is to be tried (again); None once it has arrived or was given up."""
    delivered_at: Mapped[datetime | None]
    status: Mapped[int | None]
    """Of the last answer, in HTTP's numbers."""
    error: Mapped[str | None] = mapped_column(Text)
    """Why the last try failed."""
