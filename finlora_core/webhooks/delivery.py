"""Sends what is in the outbox, at least once, until it arrives or is given up."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

import httpcore
from sqlalchemy import select
from sqlalchemy.orm import Session

from finlora_core.db.models import Delivery, Webhook
from finlora_core.db.session import Database, now
from finlora_core.webhooks import connect, signing
from finlora_core.webhooks.connect import SECONDS, Networks, Refused

logger = logging.getLogger(__name__)

AT_ONCE = 8
BACKOFF = tuple(
    timedelta(seconds=seconds) for seconds in (5, 60, 300, 1800, 3600, 6 * 3600, 12 * 3600)
)
"""Until the second try, the third, …: about a day in all, then it is given up."""

CLAIMED = timedelta(seconds=6 * SECONDS)
"""How long a delivery is left to who has begun to send it."""


@dataclass(frozen=True)
class Message:
    """A delivery that is to be sent now."""

    id: str
    webhook_id: str
    url: str
    body: str


@dataclass(frozen=True)
class Answer:
    """What came of a try."""

    status: int | None = None
    error: str | None = None

    @property
    def has_arrived(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


class Deliverer:
    """A duty: sends what is due, a few at once. Any number of processes may do so."""

    def __init__(self, database: Database, pepper: bytes, allowed: Networks) -> None:
        self._database = database
        self._pepper = pepper
        self._allowed = allowed

    def __call__(self) -> None:
        while messages := self._claim():
            with ThreadPoolExecutor(AT_ONCE) as pool:
                for message, answer in zip(messages, pool.map(self._send, messages), strict=True):
                    self._record(message, answer)

    def _claim(self) -> Sequence[Message]:
        with self._database.reading() as session:  # an empty outbox keeps no writer waiting
            if not is_any_due(session, now=now(session)):
                return []
        with self._database.transaction() as session:
            return claim_due(session, now=now(session))

    def _send(self, message: Message) -> Answer:
        with self._database.reading() as session:
            at = now(session)
        secret = signing.secret_of(self._pepper, message.webhook_id)
        headers = signing.headers(secret, message.id, message.body, now=at)
        try:
            return Answer(
                connect.post(message.url, message.body, list(headers.items()), self._allowed)
            )
        except (Refused, httpcore.NetworkError, httpcore.TimeoutException) as error:
            return Answer(error=str(error) or type(error).__name__)
        except (httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
            return Answer(error=f"no answer in HTTP: {error}")

    def _record(self, message: Message, answer: Answer) -> None:
        with self._database.transaction() as session:
            record(session, message.id, answer, now=now(session))
        if not answer.has_arrived:
            why = answer.error or f"answered {answer.status}"
            logger.warning("webhook %s: %s %s", message.webhook_id, message.id, why)


def is_any_due(session: Session, *, now: datetime) -> bool:
    return (
        session.scalars(select(Delivery.id).where(Delivery.next_at <= now).limit(1)).first()
        is not None
    )


def claim_due(session: Session, *, now: datetime) -> Sequence[Message]:
    """The next few, each put off so that nobody else sends it meanwhile."""
    due = select(Delivery, Webhook.url).join(Webhook, Webhook.id == Delivery.webhook_id)
    due = due.where(Delivery.next_at <= now).order_by(Delivery.next_at, Delivery.id).limit(AT_ONCE)
    rows = session.execute(due.with_for_update(of=Delivery, skip_locked=True)).all()
    for delivery, _ in rows:
        delivery.next_at, delivery.tries = now + CLAIMED, delivery.tries + 1
    session.flush()
    return [Message(one.id, one.webhook_id, url, one.body) for one, url in rows]


def record(session: Session, delivery_id: str, answer: Answer, *, now: datetime) -> None:
    delivery = session.get(Delivery, delivery_id, with_for_update=True)
    if delivery is None:
        return  # its webhook was deleted meanwhile
    delivery.status, delivery.error = answer.status, answer.error
    delivery.delivered_at = now if answer.has_arrived else None
    delivery.next_at = None if answer.has_arrived else next_try(delivery.tries, now)


def next_try(tries: int, now: datetime) -> datetime | None:
    """After so many that failed; None when it is given up."""
    return now + BACKOFF[tries - 1] if tries <= len(BACKOFF) else None
