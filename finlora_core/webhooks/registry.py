"""The webhooks of an owner, and what each has been told."""

import uuid
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from finlora_core.db.models import Delivery, Webhook
from finlora_core.db.pages import Page, page
from finlora_core.errors import NotFound


def create(
    session: Session, owner: str, url: str, events: Sequence[str], *, now: datetime
) -> Webhook:
    id = f"wh_{uuid.uuid4().hex[:20]}"
    webhook = Webhook(id=id, owner=owner, url=url, events=list(events), created_at=now)
    session.add(webhook)
    session.flush()
    return webhook


def get(session: Session, owner: str, webhook_id: str) -> Webhook:
    """Raises `NotFound`."""
    webhook = session.scalars(select(Webhook).filter_by(id=webhook_id, owner=owner)).first()
    if webhook is None:
        raise NotFound("webhook", webhook_id)
    return webhook


def list_all(session: Session, owner: str, *, cursor: str | None, limit: int) -> Page[Webhook]:
    """Newest first. Raises `InvalidCursor`."""
    return page(session, select(Webhook).filter_by(owner=owner), Webhook, cursor, limit)


def delete(session: Session, owner: str, webhook_id: str) -> None:
    """With all its deliveries. Raises `NotFound`."""
    session.delete(get(session, owner, webhook_id))


def list_deliveries(
    session: Session, owner: str, webhook_id: str, *, cursor: str | None, limit: int
) -> Page[Delivery]:
    """Newest first. Raises `NotFound` and `InvalidCursor`."""
    webhook = get(session, owner, webhook_id)
    told = select(Delivery).filter_by(webhook_id=webhook.id)
    return page(session, told, Delivery, cursor, limit)


def redeliver(
    session: Session, owner: str, webhook_id: str, delivery_id: str, *, now: datetime
) -> Delivery:
    """Send it again, as if for the first time. Raises `NotFound`."""
    webhook = get(session, owner, webhook_id)
    told = select(Delivery).filter_by(id=delivery_id, webhook_id=webhook.id)
    delivery = session.scalars(told.with_for_update()).first()
    if delivery is None:
        raise NotFound("delivery", delivery_id)
    delivery.tries, delivery.next_at, delivery.delivered_at = 0, now, None
    session.flush()
    return delivery
